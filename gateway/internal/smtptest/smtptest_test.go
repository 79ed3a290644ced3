package smtptest

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

func TestReplies_are_read_whole_or_not_at_all(t *testing.T) {
	for _, test := range []struct {
		octets string
		want   Reply
		fails  bool
	}{
		{"250 2.0.0 Ok\r\n", "250 2.0.0 Ok", false},
		{"250-mx\r\n250-SIZE\r\n250 X\r\n", "250-mx\n250-SIZE\n250 X", false},
		{"250 Ok\n", "", true},
		{"250-mx\r\n251 X\r\n", "", true},
		{"250\r\n", "", true},
		{"250_Ok\r\n", "", true},
		{"250 Ok", "", true},
		{"", "", true},
	} {
		client, server := net.Pipe()
		go func() {
			io.WriteString(server, test.octets)
			server.Close()
		}()
		got, err := NewClient(client).Receive()
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%q: %q, %v", test.octets, got, err)
		}
		client.Close()
	}
}

func TestContent_is_stuffed_and_its_last_line_ended(t *testing.T) {
	for content, want := range map[string]string{
		"":                  "",
		"a":                 "a\r\n",
		".":                 "..\r\n",
		"a\r\n.b\r\n..\r\n": "a\r\n..b\r\n...\r\n",
		"a\n.b\r\n":         "a\n.b\r\n",
	} {
		if got := Stuff(content); got != want {
			t.Errorf("%q is sent as %q, want %q", content, got, want)
		}
	}
}

func TestRandom_cuts_lose_nothing(t *testing.T) {
	octets := strings.Repeat("some octets ", 500)
	segments := RandomCuts(rand.New(rand.NewPCG(1, 1)))(octets)
	if len(segments) < 2 || strings.Join(segments, "") != octets {
		t.Errorf("%d segments", len(segments))
	}
}

const dialogue = `# what a server says that knows one command
= a server greets and obeys
with mood=good
S: 220 *
C: HELO me
C> "NO" "O"*2 "P\r\n"
S: 250 you
S: 500-what
S: 500 *
C: BYE
S* 221
S|
`

// server answers a dialogue line by line, by the book.
func server(c net.Conn, replies map[string]string) {
	io.WriteString(c, "220 here I am\r\n")
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		io.WriteString(c, replies[lines.Text()])
		if lines.Text() == "BYE" {
			break
		}
	}
	c.Close()
}

func TestTranscripts_pass_where_the_server_keeps_to_them(t *testing.T) {
	all, err := ReadTranscripts(strings.NewReader(dialogue))
	if err != nil || len(all) != 1 {
		t.Fatalf("%d transcripts, %v", len(all), err)
	}
	tr := all[0]
	if tr.Name != "a server greets and obeys" || tr.With["mood"] != "good" || tr.HalfCloses() {
		t.Errorf("read as %+v", tr)
	}
	book := map[string]string{"HELO me": "250 you\r\n", "NOOOP": "500-what\r\n500 indeed\r\n", "BYE": "221-so\r\n221 long\r\n"}
	for _, tr := range []Transcript{tr, tr.Pipelined()} {
		for seed := range uint64(10) {
			client, there := net.Pipe()
			go server(there, book)
			tr.Run(t, client, RandomCuts(rand.New(rand.NewPCG(seed, 2))))
			client.Close()
		}
	}
}

// failure is a test that is expected to fail, and then stops.
type failure struct {
	testing.TB
	failed bool
}

func (f *failure) Helper()               {}
func (f *failure) Fatalf(string, ...any) { f.failed = true; panic(f) }

func TestTranscripts_fail_where_the_server_does_otherwise(t *testing.T) {
	all, err := ReadTranscripts(strings.NewReader(dialogue))
	if err != nil {
		t.Fatal(err)
	}
	for what, book := range map[string]map[string]string{
		"another reply":    {"HELO me": "250 me\r\n", "NOOOP": "500-what\r\n500 indeed\r\n", "BYE": "221 bye\r\n"},
		"a line too few":   {"HELO me": "250 you\r\n", "NOOOP": "500 what\r\n", "BYE": "221 bye\r\n"},
		"another code":     {"HELO me": "250 you\r\n", "NOOOP": "500-what\r\n500 indeed\r\n", "BYE": "250 bye\r\n"},
		"a reply too many": {"HELO me": "250 you\r\n", "NOOOP": "500-what\r\n500 indeed\r\n", "BYE": "221 bye\r\n221 bye\r\n"},
	} {
		client, there := net.Pipe()
		go server(there, book)
		f := &failure{TB: t}
		func() {
			defer func() { recover() }()
			all[0].Run(f, client, Whole)
		}()
		client.Close()
		if !f.failed {
			t.Errorf("%s passes", what)
		}
	}
}

func TestMistakes_in_a_file_are_told_with_their_line(t *testing.T) {
	for file, want := range map[string]string{
		"C: EHLO\n":            "line 1",
		"= a\nX: what\n":       "line 2",
		"= a\n\nC> \"half\n":   "line 3",
		"= a\nC> \"x\"*many\n": "line 2",
		"= a\nwait a bit\n":    "line 2",
	} {
		if _, err := ReadTranscripts(strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", file, err, want)
		}
	}
}
