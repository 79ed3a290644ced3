package smtp

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"
)

// yes accepts everything, and notes what it is given.
type yes struct {
	t    testing.TB
	open int // transactions
}

func (y *yes) Admit(context.Context, *Client) Reply                { return Reply{} }
func (y *yes) Auth(context.Context, *Client, string, string) Reply { return Reply{} }
func (y *yes) Refused(*Client, string, Reply)                      {}
func (y *yes) Begin(context.Context) ([]byte, Reply)               { return nil, replyNotHere }
func (y *yes) Data(context.Context, *memory.Content) []Reply       { panic("nobody began") }
func (y *yes) Close()                                              { y.open-- }

func (y *yes) Mail(_ context.Context, c *Client, from address.Address, p MailParams) (Transaction, Reply) {
	y.open++
	y.check(from, p.SMTPUTF8)
	if strings.ContainsFunc(c.Helo, func(r rune) bool { return r <= ' ' || r > '~' }) {
		y.t.Errorf("the client's name is %q", c.Helo)
	}
	return y, Reply{}
}

func (y *yes) Rcpt(_ context.Context, to address.Address, _ RcptParams) Reply {
	if to.IsNull() || to.Domain == "" {
		y.t.Errorf("%+v is no recipient", to)
	}
	y.check(to, true)
	return Reply{}
}

func (y *yes) check(a address.Address, utf8 bool) {
	if again, err := address.Parse(a.String()); !a.IsNull() && (err != nil || again != a) {
		y.t.Errorf("%+v is written as %s and read as %+v, %v", a, a, again, err)
	}
	if !utf8 && !address.IsASCII(a.Local) {
		y.t.Errorf("%+v without SMTPUTF8", a)
	}
}

func FuzzCommands(f *testing.F) {
	for _, seed := range []string{
		"EHLO a\nMAIL FROM:<a@b.example> SIZE=1 BODY=7BIT SMTPUTF8\nRCPT TO:<c@d.example>\nDATA",
		"HELO [::1]\nMAIL FROM:<>\nRCPT TO:<postmaster>\nRSET",
		"EHLO a\nMAIL FROM:<@x:\"a b\"@[192.0.2.1]>\nRCPT TO:<é@mx.example>\nEHLO b\nQUIT",
		"noop \x00\nVRFY\nHELP \nFOO\n\nBDAT 1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		y := &yes{t: t}
		s := &Session{settings: &Settings{Hostname: "mx.example"}, handler: y, draining: make(chan struct{})}
		for line := range bytes.SplitSeq([]byte(lines), []byte("\n")) {
			r, err := s.run(t.Context(), line)
			if s.command == "DATA" && s.accepted > 0 {
				t.Error("DATA left its recipients behind")
			}
			if err != nil || r.Code < 200 || r.Code > 599 {
				t.Errorf("%q is answered by %+v, %v", line, r, err)
			}
			if open := s.transaction != nil; open != (y.open == 1) {
				t.Errorf("%q leaves %d transactions open", line, y.open)
			}
			checkReply(t, r.appendTo(nil))
		}
	})
}

// checkReply fails the test unless b is a reply of RFC 5321 section 4.2.
func checkReply(t *testing.T, b []byte) {
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
