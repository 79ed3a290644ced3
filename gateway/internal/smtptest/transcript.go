package smtptest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Transcript is a dialogue that a server must keep to. A file holds many of them; in it a line is
//
//	# …                   a comment
//	= NAME                where a transcript begins
//	with KEY=VALUE …      what it asks of whoever runs it, see With
//	hello                 a greeting, EHLO, and its reply, whatever they say
//	C: LINE               the client sends LINE and CRLF
//	C> "OCTETS"*N …       the client sends octets, as Go writes them, N times, and so on
//	C|                    the client closes its half
//	tls                   the client makes a TLS handshake, whosever the certificate is
//	wait TIME             the client says nothing for so long
//	S: LINE               the server answers LINE; a "*" that ends it stands for anything
//	S* CODE               the server answers CODE, in any number of lines
//	S|                    the server closes the connection
//
// The client goes on once it has every reply that stands before. Client lines without replies between go in one write.
type Transcript struct {
	Name  string
	With  map[string]string
	turns []turn
}

// turn is what the client sends, and all that comes before it sends again.
type turn struct {
	wait      time.Duration
	handshake bool
	send      string
	halfClose bool
	replies   []string // line by line, or anyReply and a code
	end       bool
}

const anyReply = "*"

// ReadTranscripts reads a file of them; its errors tell the line.
func ReadTranscripts(file io.Reader) ([]Transcript, error) {
	var all []Transcript
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "= "); ok {
			all = append(all, Transcript{Name: name, With: map[string]string{}})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("line %d: stands before the first transcript", n)
		}
		if err := all[len(all)-1].add(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return all, lines.Err()
}

// add reads one line.
func (t *Transcript) add(line string) error {
	mark, rest, _ := strings.Cut(line, " ")
	switch mark {
	case "with":
		for _, pair := range strings.Fields(rest) {
			key, value, _ := strings.Cut(pair, "=")
			t.With[key] = value
		}
	case "hello":
		t.turns = append(t.turns,
			turn{replies: []string{anyReply + "220"}},
			turn{send: "EHLO client.example\r\n", replies: []string{anyReply + "250"}})
	case "C:":
		t.client().send += rest + "\r\n"
	case "C>":
		octets, err := unquote(rest)
		if err != nil {
			return err
		}
		t.client().send += octets
	case "C|":
		t.client().halfClose = true
	case "tls":
		t.turns = append(t.turns, turn{handshake: true})
	case "wait":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		t.turns = append(t.turns, turn{wait: d})
	case "S:":
		server := t.server()
		server.replies = append(server.replies, rest)
	case "S*":
		server := t.server()
		server.replies = append(server.replies, anyReply+rest)
	case "S|":
		t.server().end = true
	default:
		return fmt.Errorf("%q is no line of a transcript", line)
	}
	return nil
}

// client returns the turn that what the client sends next belongs to.
func (t *Transcript) client() *turn {
	if n := len(t.turns); n == 0 || len(t.turns[n-1].replies) > 0 || t.turns[n-1].end {
		t.turns = append(t.turns, turn{})
	}
	return &t.turns[len(t.turns)-1]
}

// server returns the turn that what the server says next belongs to.
func (t *Transcript) server() *turn {
	if len(t.turns) == 0 {
		t.turns = append(t.turns, turn{})
	}
	return &t.turns[len(t.turns)-1]
}

// unquote reads quoted strings, each perhaps with "*N" behind it.
func unquote(s string) (string, error) {
	var octets strings.Builder
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", fmt.Errorf("%q: %w", s, err)
		}
		text, err := strconv.Unquote(quoted)
		if err != nil {
			return "", fmt.Errorf("%q: %w", quoted, err)
		}
		s = s[len(quoted):]
		times := 1
		if count, ok := strings.CutPrefix(s, "*"); ok {
			count, s, _ = strings.Cut(count, " ")
			if times, err = strconv.Atoi(count); err != nil {
				return "", err
			}
		}
		octets.WriteString(strings.Repeat(text, times))
	}
	return octets.String(), nil
}

// HalfCloses tells whether the client closes its half, which not every connection can.
func (t Transcript) HalfCloses() bool {
	for _, turn := range t.turns {
		if turn.halfClose {
			return true
		}
	}
	return false
}

// Pipelined returns the same dialogue with a client that waits for the greeting, before it begins TLS and where it is told to,
// and for nothing else.
func (t Transcript) Pipelined() Transcript {
	var turns []turn
	for _, next := range t.turns {
		last := len(turns) - 1
		if last < 0 || turns[last].send == "" || next.handshake || next.wait > 0 {
			next.replies = slices.Clone(next.replies)
			turns = append(turns, next)
			continue
		}
		all := &turns[last]
		all.send += next.send
		all.halfClose = all.halfClose || next.halfClose
		all.replies = append(all.replies, next.replies...)
		all.end = all.end || next.end
	}
	t.turns = turns
	return t
}

// Cut parts octets into the segments that are sent by one write each.
type Cut func(octets string) []string

// Whole sends in one segment what is sent without waiting.
func Whole(octets string) []string { return []string{octets} }

// RandomCuts sends in segments of random length, mostly short ones.
func RandomCuts(r *rand.Rand) Cut {
	return func(octets string) (segments []string) {
		for len(octets) > 0 {
			n := min(1+r.IntN(1<<r.IntN(12)), len(octets))
			segments = append(segments, octets[:n])
			octets = octets[n:]
		}
		return segments
	}
}

// Run plays t's client on conn and fails the test at the first difference.
func (t Transcript) Run(tb testing.TB, conn net.Conn, cut Cut) {
	tb.Helper()
	c := NewClient(conn)
	for _, turn := range t.turns {
		time.Sleep(turn.wait)
		if turn.handshake {
			if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
				tb.Fatalf("handshake: %v", err)
			}
		}
		// A server that answers before it has read everything must not wait for a client that does not read.
		sent := make(chan error, 1)
		go func() { sent <- c.play(turn, cut) }()
		for want := turn.replies; len(want) > 0; {
			r, err := c.Receive()
			if err != nil {
				tb.Fatalf("after %.200q: %v, want %q", turn.send, err, want)
			}
			n := r.matches(want)
			if n == 0 {
				tb.Fatalf("after %.200q:\n got %q\nwant %q", turn.send, r, want)
			}
			want = want[n:]
		}
		if turn.end {
			if err := c.End(); err != nil {
				tb.Fatalf("after %.200q: %v", turn.send, err)
			}
			<-sent // it may have met a closed connection: the server need not read all that comes after its last reply
			return
		}
		if err := <-sent; err != nil {
			tb.Fatalf("send %.200q: %v", turn.send, err)
		}
	}
}

func (c *Client) play(turn turn, cut Cut) error {
	if turn.send != "" {
		for _, segment := range cut(turn.send) {
			if err := c.Send(segment); err != nil {
				return err
			}
		}
	}
	if turn.halfClose {
		return c.CloseWrite()
	}
	return nil
}

// matches returns how many of the patterns r is the first of; 0 where it is another reply.
func (r Reply) matches(want []string) int {
	if code, ok := strings.CutPrefix(want[0], anyReply); ok {
		if strconv.Itoa(r.Code()) != code {
			return 0
		}
		return 1
	}
	lines := strings.Split(string(r), "\n")
	if len(lines) > len(want) {
		return 0
	}
	for i, line := range lines {
		if prefix, ok := strings.CutSuffix(want[i], "*"); line != want[i] && !(ok && strings.HasPrefix(line, prefix)) {
			return 0
		}
	}
	return len(lines)
}
