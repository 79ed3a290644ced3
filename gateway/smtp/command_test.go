package smtp

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"
)

// yes accepts everything but the password "wrong", and notes what it is given.
type yes struct {
	t     testing.TB
	open  int // transactions
	mails []string
}

func (y *yes) Admit(context.Context, *Client) Reply  { return Reply{} }
func (y *yes) Refused(*Client, string, Reply)        {}
func (y *yes) Begin(context.Context) ([]byte, Reply) { return []byte("prefix"), Reply{} }
func (y *yes) Close()                                { y.open-- }

func (y *yes) Auth(_ context.Context, _ *Client, user, password string) Reply {
	if user == "" {
		y.t.Error("asked about nobody")
	}
	if password == "wrong" {
		return replyAuthWrong
	}
	return Reply{}
}

func (y *yes) Mail(_ context.Context, c *Client, from address.Address, p MailParams) (Transaction, Reply) {
	y.open++
	if y.open != 1 {
		y.t.Errorf("%d transactions are open", y.open)
	}
	y.check(from, p.SMTPUTF8)
	if strings.ContainsFunc(c.Helo+p.EnvID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		y.t.Errorf("the client's name is %q, ENVID %q", c.Helo, p.EnvID)
	}
	return y, Reply{}
}

func (y *yes) Rcpt(_ context.Context, to address.Address, p RcptParams) Reply {
	if to.IsNull() || to.Domain == "" {
		y.t.Errorf("%+v is no recipient", to)
	}
	if !utf8.ValidString(p.ORcpt) || strings.ContainsFunc(p.ORcpt+p.Notify, unicode.IsControl) {
		y.t.Errorf("%+v", p)
	}
	y.check(to, true)
	return Reply{}
}

func (y *yes) Data(_ context.Context, c *memory.Content) []Reply {
	if !bytes.HasPrefix(c.Octets(), []byte("prefix")) {
		y.t.Errorf("the prefix became %.10q", c.Octets())
	}
	y.mails = append(y.mails, string(c.Body()))
	return []Reply{{Code: 250, Enhanced: "2.0.0", Text: "Ok: queued"}}
}

func (y *yes) check(a address.Address, utf8 bool) {
	if again, err := address.Parse(a.String()); !a.IsNull() && (err != nil || again != a) {
		y.t.Errorf("%+v is written as %s and read as %+v, %v", a, a, again, err)
	}
	if !utf8 && !address.IsASCII(a.Local) {
		y.t.Errorf("%+v without SMTPUTF8", a)
	}
}

// script is a connection whose client sends segments and waits for nothing.
type script struct {
	segments
	replies bytes.Buffer
}

func (c *script) Write(p []byte) (int, error)    { return c.replies.Write(p) }
func (*script) Close() error                     { return nil }
func (*script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// played is what a session made of a client's octets.
type played struct {
	replies string
	mails   []string
}

// play runs a session whose client sends octets: uncut where seed is 0, else cut by it.
func play(t testing.TB, octets string, s *Settings, seed uint64) played {
	conn := &script{segments: segments{octets: octets}}
	if seed > 0 {
		conn.rand = rand.New(rand.NewPCG(seed, 0))
	}
	y := &yes{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the delay after errors is cut short so
	session := NewSession(conn, s, y)
	defer session.wire.close()
	if err, ok := errors.AsType[*PanicError](session.conclude(ctx, session.converse(ctx))); ok { // Serve, but for the cut
		t.Errorf("%v\n%s", err, err.Stack)
	}
	if y.open != 0 {
		t.Errorf("%d transactions were left open", y.open)
	}
	checkReplies(t, conn.replies.String())
	return played{conn.replies.String(), y.mails}
}

func FuzzCommands(f *testing.F) {
	for i, seed := range []string{
		"EHLO a\r\nMAIL FROM:<a@b.example> SIZE=1 BODY=7BIT SMTPUTF8\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
		"HELO [::1]\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nRSET\r\n",
		"EHLO a\r\nMAIL FROM:<@x:\"a b\"@[192.0.2.1]>\r\nRCPT TO:<é@mx.example>\r\nEHLO b\r\nQUIT\r\n",
		"noop \x00\r\nVRFY\r\nHELP \r\nFOO\r\n\r\nBDAT 1\r\n",
		"EHLO a\r\nMAIL FROM:<> RET=FULL ENVID=a+2Bb\r\nRCPT TO:<a@b> NOTIFY=DELAY,SUCCESS ORCPT=utf-8;\\x{e9}@b\r\nBDAT 2\r\nxyBDAT 1 LAST\r\nz",
		"LHLO a\r\nAUTH PLAIN\r\nAGEAYg==\r\nAUTH LOGIN\r\n*\r\nSTARTTLS\r\nGET / HTTP/1.0\r\n",
	} {
		f.Add(seed, uint64(i+1))
	}
	f.Fuzz(func(t *testing.T, octets string, seed uint64) {
		s := &Settings{
			Hostname: "mx.example", SizeLimit: 1000, MaxRecipients: 3, Auth: true, AuthPlaintext: true,
			LineEndings: LineEndings(seed % 3), LMTP: seed%2 == 0,
		}
		whole, cut := play(t, octets, s, 0), play(t, octets, s, seed|1)
		if !reflect.DeepEqual(whole, cut) {
			t.Errorf("%q gives\n%q, and cut by %d\n%q", octets, whole, seed, cut)
		}
	})
}

// checkReplies fails the test unless all are replies of RFC 5321 section 4.2.
func checkReplies(t testing.TB, all string) {
	t.Helper()
	var reply []byte
	for line := range strings.Lines(all) {
		reply = append(reply, line...)
		if len(line) > 3 && line[3] == ' ' {
			checkReply(t, reply)
			reply = nil
		}
	}
	if reply != nil {
		t.Errorf("%q does not end", reply)
	}
}

// checkReply fails the test unless b is a reply of RFC 5321 section 4.2.
func checkReply(t testing.TB, b []byte) {
	t.Helper()
	lines := bytes.Split(b, []byte("\r\n"))
	if last := lines[len(lines)-1]; len(last) != 0 {
		t.Fatalf("%q does not end", b)
	}
	for i, line := range lines[:len(lines)-1] {
		separator := byte('-')
		if i == len(lines)-2 {
			separator = ' '
		}
		if len(line) < 4 || line[3] != separator || !bytes.Equal(line[:3], b[:3]) ||
			bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q is no line of %q", line, b)
		}
	}
}

func TestReplies_are_written_line_by_line_in_printable_octets(t *testing.T) {
	for _, test := range []struct {
		reply Reply
		want  string
	}{
		{Reply{Code: 250, Text: "mx"}, "250 mx\r\n"},
		{Reply{Code: 250, Enhanced: "2.0.0", Text: "Ok"}, "250 2.0.0 Ok\r\n"},
		{Reply{Code: 250, Text: "mx\nSIZE\nX"}, "250-mx\r\n250-SIZE\r\n250 X\r\n"},
		{Reply{Code: 550, Enhanced: "5.1.1", Text: "a\nb"}, "550-5.1.1 a\r\n550 5.1.1 b\r\n"},
		{Reply{Code: 550, Text: "a\r\x00\x7fé"}, "550 a?????\r\n"},
	} {
		got := test.reply.appendTo(nil)
		if string(got) != test.want {
			t.Errorf("%+v is written %q, want %q", test.reply, got, test.want)
		}
		checkReply(t, got)
	}
}
