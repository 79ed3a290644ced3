package smtp

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/memory"
)

// reference does to octets what receive does to a stream of them, by the definition: the content ends at the first
// <CRLF>.<CRLF>, where the beginning counts as a line's; then dots that begin lines go; then bare CR and LF are seen to, and the
// dots that a client whose lines end in LF has added where they began with one.
func reference(octets string, endings LineEndings) (content, rest string, bare, done bool) {
	content, rest, done = strings.Cut("\r\n"+octets, "\r\n.\r\n")
	if !done {
		return "", "", false, false
	}
	content = strings.ReplaceAll(content+"\r\n", "\r\n.", "\r\n")[2:]
	bare = strings.ContainsAny(strings.ReplaceAll(content, "\r\n", ""), "\r\n")
	if endings == FixBare {
		var lines []string
		for i, line := range strings.Split(content, "\n") {
			if i > 0 && strings.HasPrefix(line, "..") && !strings.HasSuffix(lines[i-1], "\r") {
				line = line[1:]
			}
			lines = append(lines, line)
		}
		content = crlf.Replace(strings.Join(lines, "\n"))
	}
	return content, rest, bare, true
}

var crlf = strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n")

// segments is a connection that gives its octets in pieces of random length, or all that is asked for.
type segments struct {
	net.Conn // nothing but what follows is called
	octets   string
	rand     *rand.Rand // nil gives all
}

func (c *segments) Read(p []byte) (int, error) {
	if c.octets == "" {
		return 0, io.EOF
	}
	n := len(c.octets)
	if c.rand != nil {
		n = min(n, 1+c.rand.IntN(1<<c.rand.IntN(14)))
	}
	n = copy(p, c.octets[:n])
	c.octets = c.octets[n:]
	return n, nil
}

func (c *segments) SetReadDeadline(time.Time) error { return nil }

// received is what receive made of octets.
type received struct {
	content, rest string
	reply         Reply
	err           error
}

// receiveAll lets receive read octets: uncut where seed is 0, else cut by it, and every other time with the first of them
// in the buffer of commands already.
func receiveAll(octets string, s *Settings, seed uint64) received {
	conn := &segments{octets: octets}
	if seed > 0 {
		conn.rand = rand.New(rand.NewPCG(seed, 0))
	}
	session := &Session{settings: s}
	session.wire.open(conn, 0, func() error { return nil })
	if seed > 0 && seed%2 == 0 && session.wire.fill() != nil {
		return received{err: ErrLost}
	}
	content := memory.NewContent([]byte("prefix"), 16, nil)
	defer content.Release()
	session.content = content
	session.lines = unstuffer{endings: s.LineEndings}
	var r received
	if r.err = session.receive(context.Background()); r.err == nil {
		r.reply = session.verdict()
	}
	r.content = string(content.Body())
	r.rest = string(session.wire.received()) + conn.octets
	if got := content.Octets()[:len("prefix")]; string(got) != "prefix" {
		r.content = "prefix became " + string(got)
	}
	return r
}

// checkAgainstReference compares receive with reference, for all line endings.
func checkAgainstReference(t *testing.T, octets string, seed uint64) {
	t.Helper()
	for _, endings := range []LineEndings{RejectBare, FixBare, PassBare} {
		got := receiveAll(octets, &Settings{LineEndings: endings}, seed)
		content, rest, bare, done := reference(octets, endings)
		var want Reply
		switch {
		case !done:
			if got.err == nil {
				t.Errorf("%q, endings %d: an end was seen, and there is none", octets, endings)
			}
			continue
		case content == "":
			want = replyEmpty
		case bare && endings == RejectBare:
			want = replyBareInner
		case hops([]byte(content)) > maxHops:
			want = replyLoop
		}
		if got.err != nil || got.content != content || got.rest != rest || got.reply != want {
			t.Errorf("%q, endings %d, seed %d:\n got %+v\nwant content %q, rest %q, reply %v", octets, endings, seed, got, content, rest, want)
		}
	}
}

var traps = []string{
	".\r\n",
	"..\r\n.\r\n",
	"..x\r\n.\r\n",
	".x\r\n.\r\n",
	"\r\r\n.\r\n",
	"\r\n.\r\n",
	"a\r\n.\r\nMAIL FROM:<a@b.example>\r\n",
	"a\n.\nb\r\n.\r\n",
	"a\n..b\n.c\n...\n..\r\n.\r\n",
	"a\n\n..\n.\r\n..\n..\r.\n..\r\n.\r\n",
	"a\n.\r\nb\r\n.\r\n",
	"a\r\n.\nb\r\n.\r\n",
	"a\r.\r\nb\r\n.\r\n",
	"a\r\n.\rb\r\n.\r\n",
	"a\r\n.\r\r\nb\r\n.\r\n",
	"a\r\n..\r\nb\r\n.\r\n",
	"a\r\n.\x00\r\n.\r\n",
	"\n\n\n\r\r\r\n.\r\n",
	"a\r\n.\r",
	"a\r\n.",
	"a\n.\n",
}

func TestOnly_a_dot_between_CRLFs_ends_the_data_wherever_it_is_cut(t *testing.T) {
	for _, octets := range traps {
		for seed := range uint64(40) {
			checkAgainstReference(t, octets, seed)
		}
	}
}

func TestA_trap_on_any_boundary_of_the_buffer_is_seen(t *testing.T) {
	// The buffer of receiveAll's content has 8 KiB, of which all or half are read at once.
	for _, boundary := range []int{8 << 10, 4 << 10} {
		for fill := boundary - 20; fill < boundary-5; fill++ {
			for _, trap := range traps {
				checkAgainstReference(t, strings.Repeat("x", fill)+"\r\n"+trap, 0)
			}
		}
	}
}

func TestNothing_but_bare_line_ends_doubles_and_overtakes_nothing(t *testing.T) {
	for _, bare := range []string{"\n", "\r", "\nx", "\r.\n"} {
		for seed := range uint64(5) {
			checkAgainstReference(t, strings.Repeat(bare, 20_000)+"\r\n.\r\nQUIT\r\n", seed)
		}
	}
}

func TestLong_mails_arrive_as_they_were_sent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 15 {
		var b strings.Builder
		for range r.IntN(3000) {
			for range r.IntN(200) {
				b.WriteByte("\x00\t .abcé"[r.IntN(9)])
			}
			b.WriteString([]string{"\r\n", "\r\n", "\r\n.", "\n", "\r"}[r.IntN(5)])
		}
		checkAgainstReference(t, b.String()+"\r\n.\r\nQUIT\r\n", r.Uint64())
	}
}

func FuzzEndOfData(f *testing.F) {
	for i, octets := range traps {
		f.Add(octets, uint64(i))
	}
	f.Fuzz(func(t *testing.T, octets string, seed uint64) {
		checkAgainstReference(t, octets, seed)
	})
}

func TestA_limit_is_kept_to_the_octet(t *testing.T) {
	for _, test := range []struct {
		octets string
		limit  int64
		want   Reply
		err    error
	}{
		{"12345678\r\n.\r\n", 10, Reply{}, nil},
		{"..345678\r\n.\r\n", 9, Reply{}, nil},
		{"12345678\r\n.\r\n", 9, replyTooLarge, nil},
		{"12345678\r\n.\r\n", 7, replyTooLarge, nil},
		{"12345678\r\n.\r\n", 6, Reply{}, ErrTooLarge},
		{"\n\n\n\r\n.\r\n", 8, Reply{}, nil},
		{"\n\n\n\r\n.\r\n", 7, replyTooLarge, nil},
	} {
		for seed := range uint64(20) {
			got := receiveAll(test.octets, &Settings{SizeLimit: test.limit, LineEndings: FixBare}, seed)
			if got.reply != test.want || got.err != test.err {
				t.Errorf("%q against %d: %v, %v; want %v, %v", test.octets, test.limit, got.reply, got.err, test.want, test.err)
			}
		}
	}
}

func TestReceived_fields_are_counted_in_the_header_only(t *testing.T) {
	for _, test := range []struct {
		mail string
		want int
	}{
		{"", 0},
		{"Received: a\r\nreceived : b\r\nRECEIVED:\r\n\r\nReceived: body\r\n", 3},
		{"Received: a\n\nReceived: body\n", 1},
		{"X-Received: a\r\n Received: folded\r\nReceived\r\n\r\n", 0},
		{strings.Repeat("Received: a\r\n", 500), maxHops + 1},
	} {
		if got := hops([]byte(test.mail)); got != test.want {
			t.Errorf("%.40q: %d, want %d", test.mail, got, test.want)
		}
	}
}

func BenchmarkUnstuff(b *testing.B) {
	line := strings.Repeat("x", 74) + "\r\n"
	for name, mail := range map[string]string{
		"plain":  strings.Repeat(line, 800),
		"dotted": strings.Repeat("."+line, 800),
	} {
		b.Run(name, func(b *testing.B) {
			src := []byte(mail)
			room := make([]byte, len(src))
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				copy(room, src)
				u := unstuffer{}
				if _, used, _ := u.decode(room, room); used != len(src) {
					b.Fatal("not all was used")
				}
			}
		})
	}
	b.Run("copy alone", func(b *testing.B) {
		src := bytes.Repeat([]byte(line), 800)
		room := make([]byte, len(src))
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			copy(room, src)
		}
	})
}
