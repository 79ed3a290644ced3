package smtp

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// chunked sends content in chunks of random length, empty ones too, and the last one with LAST.
func chunked(content string, r *rand.Rand) (octets string, chunks int) {
	var b strings.Builder
	for {
		n := min(r.IntN(1<<r.IntN(10)), len(content))
		last := ""
		if n == len(content) {
			last = " LAST"
		}
		fmt.Fprintf(&b, "BDAT %d%s\r\n%s", n, last, content[:n])
		content = content[n:]
		chunks++
		if last != "" {
			return b.String(), chunks
		}
	}
}

const envelopeCommands = "EHLO a\r\nMAIL FROM:<a@client.example>%s\r\nRCPT TO:<b@mx.example>\r\n"

// checkChunks compares what comes out of chunks with what went in: the same, but for the line ends that are fixed. Where no
// recipient was accepted nothing comes out, and nothing is taken for a command.
func checkChunks(t *testing.T, content string, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	octets, chunks := chunked(content, r)
	for _, endings := range []LineEndings{RejectBare, FixBare, PassBare} {
		for _, body := range []string{"", " BODY=BINARYMIME"} {
			want := content
			if endings == FixBare && body == "" {
				want = crlf.Replace(content)
			}
			s := &Settings{Hostname: "mx.example", LineEndings: endings}
			got := play(t, fmt.Sprintf(envelopeCommands, body)+octets+"NOOP\r\n", s, seed)
			replies := strings.Repeat("250 2.0.0 Ok\r\n", chunks-1) + "250 2.0.0 Ok: queued\r\n250 2.0.0 Ok\r\n"
			refused := content == "" || hops([]byte(want)) > maxHops
			if !refused && (len(got.mails) != 1 || got.mails[0] != want || !strings.HasSuffix(got.replies, "250 2.1.5 Ok\r\n"+replies)) {
				t.Errorf("%q, endings %d,%s seed %d:\n got %q\nwant %q and %q", octets, endings, body, seed, got, want, replies)
			}
			if refused && len(got.mails) != 0 {
				t.Errorf("%q was accepted", octets)
			}
		}
	}
	s := &Settings{Hostname: "mx.example", LineEndings: RejectBare}
	got := play(t, "EHLO a\r\nRSET\r\n"+octets+"QUIT\r\n", s, seed)
	_, answers, _ := strings.Cut(got.replies, "250 2.0.0 Ok\r\n")
	if n := strings.Count(answers, "503 5.5.1 Send MAIL first\r\n"); chunks < maxErrors && (n != chunks || !strings.HasSuffix(answers, "221 2.0.0 Bye\r\n")) {
		t.Errorf("%q without a mail: %q", octets, got.replies)
	}
}

var chunkTraps = []string{
	"", "x", "\r", "\n", "\r\n", "\r\n.\r\n", "a\rb\nc\r\n", "QUIT\r\n", "RSET\r\nMAIL FROM:<x@y>\r\n", "\r\r\n\n\r", "..\r\n.",
	strings.Repeat("x", 100_000),
	strings.Repeat("\r", 3000) + strings.Repeat("\n", 3000),
}

func TestChunks_carry_what_they_are_given(t *testing.T) {
	for _, content := range chunkTraps {
		for seed := range uint64(20) {
			checkChunks(t, content, seed)
		}
	}
}

func TestA_hundred_thousand_chunks_of_an_octet_are_one_mail(t *testing.T) {
	content := strings.Repeat("0123456789", 10_000)
	var b strings.Builder
	fmt.Fprintf(&b, envelopeCommands, "")
	for i := range len(content) {
		fmt.Fprintf(&b, "BDAT 1\r\n%c", content[i])
	}
	b.WriteString("BDAT 0 LAST\r\n")
	got := play(t, b.String(), &Settings{Hostname: "mx.example"}, 0)
	if len(got.mails) != 1 || got.mails[0] != content {
		t.Errorf("%d mails", len(got.mails))
	}
}

func FuzzChunks(f *testing.F) {
	for i, content := range chunkTraps {
		f.Add(content, uint64(i))
	}
	f.Fuzz(func(t *testing.T, content string, seed uint64) {
		if len(content) > 1<<16 {
			t.Skip()
		}
		checkChunks(t, content, seed)
	})
}
