package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// server is just enough of an SMTP server to see what a client says.
type server struct {
	offers  []string          // EHLO keywords; nil is a server that knows HELO only
	answers map[string]string // by the beginning of a command, "." for the end of data, "" for the greeting
	hangUp  string            // the beginning of a command that is not answered: the connection ends

	// owned by serve until closed
	commands []string
	content  []byte // as it was on the wire, without the end of data
	done     chan struct{}
}

// listen serves one connection and returns the address.
func (s *server) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		s.serve(conn)
	}()
	t.Cleanup(func() {
		l.Close()
		<-s.done
	})
	return l.Addr().String()
}

func (s *server) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	say := func(command, usual string) string {
		for prefix, answer := range s.answers {
			if prefix == command || prefix != "" && prefix != "." && strings.HasPrefix(command, prefix) {
				usual = answer
			}
		}
		fmt.Fprint(conn, usual+"\r\n")
		return usual
	}
	say("", "220 mail.example.com ESMTP")
	for {
		line, err := r.ReadString('\n')
		if err != nil || s.hangUp != "" && strings.HasPrefix(line, s.hangUp) {
			return
		}
		command := strings.TrimSuffix(line, "\r\n")
		s.commands = append(s.commands, command)
		switch verb, _, _ := strings.Cut(command, " "); verb {
		case "EHLO":
			answer := "502 5.5.1 not here"
			if s.offers != nil {
				lines := append([]string{"mail.example.com"}, s.offers...)
				last := len(lines) - 1
				answer = "250-" + strings.Join(lines[:last], "\r\n250-") + "\r\n250 " + lines[last]
			}
			say(command, answer)
		case "DATA":
			if !strings.HasPrefix(say(command, "354 go on"), "354") {
				continue
			}
			for atStart := true; ; {
				line, err := r.ReadBytes('\n')
				if err != nil {
					return
				}
				if atStart && string(line) == ".\r\n" {
					break
				}
				s.content = append(s.content, line...)
				atStart = bytes.HasSuffix(line, []byte("\r\n"))
			}
			say(".", "250 2.0.0 Ok: queued as 1")
		case "QUIT":
			say(command, "221 2.0.0 bye")
			return
		default:
			say(command, "250 2.0.0 Ok")
		}
	}
}

// send runs "lsmtpd send" against s, with stdin to read from.
func (s *server) send(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	p := &program{stdin: strings.NewReader(stdin), stdout: &out, stderr: &err}
	args = append([]string{"send", "--helo", "client.example.com", "--server", s.listen(t)}, args...)
	status = p.dispatch(args)
	<-s.done
	return status, out.String(), err.String()
}

var annToBob = []string{"--from", "ann@example.com", "--to", "bob@example.net"}

func TestSend_speaks_as_the_server_offers_and_the_mail_needs(t *testing.T) {
	const plain = "Subject: hello\r\n\r\nhello\r\n"
	everything := []string{"PIPELINING", "size 1000000", "8BITMIME", "SMTPUTF8"}
	tests := []struct {
		name   string
		offers []string
		args   []string
		mail   string
		want   string // the command MAIL
	}{
		{"plain mail needs no more than its size", everything, annToBob, plain, "MAIL FROM:<ann@example.com> SIZE=25"},
		{"nothing is said that was not offered", []string{"HELP"}, annToBob, "Subject: ü\r\n\r\nü", "MAIL FROM:<ann@example.com>"},
		{"eight bits in the body", everything, annToBob, "Subject: u\r\n\r\nü\r\n", "MAIL FROM:<ann@example.com> SIZE=18 BODY=8BITMIME"},
		{"eight bits in the header", everything, annToBob, "Subject: ü\r\n\r\nu\r\n", "MAIL FROM:<ann@example.com> SIZE=18 BODY=8BITMIME SMTPUTF8"},
		{"a sender that is not ASCII", everything, []string{"--from", "änn@example.com", "--to", "b@x"}, plain, "MAIL FROM:<änn@example.com> SIZE=25 SMTPUTF8"},
		{"a recipient that is not ASCII", everything, []string{"--from", "a@x", "--to", "b@x,bøb@x"}, plain, "MAIL FROM:<a@x> SIZE=25 SMTPUTF8"},
		{"the null sender", everything, []string{"--from", "<>", "--to", "<b@x>"}, plain, "MAIL FROM:<> SIZE=25"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &server{offers: test.offers}
			status, stdout, stderr := s.send(t, test.mail, test.args...)
			if status != exitDone || stdout != "250 2.0.0 Ok: queued as 1\n" || stderr != "" {
				t.Errorf("exit status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
			if s.commands[1] != test.want {
				t.Errorf("%q, want %q", s.commands[1], test.want)
			}
		})
	}
}

func TestSend_is_a_whole_session(t *testing.T) {
	s := &server{offers: []string{"HELP"}}
	s.send(t, "\r\nhello\r\n", "--from", "ann@example.com", "--to", "bob@example.net,eve@example.org", "--to", "<joe@example.org>")
	want := []string{
		"EHLO client.example.com", "MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.net>", "RCPT TO:<eve@example.org>",
		"RCPT TO:<joe@example.org>", "DATA", "QUIT",
	}
	if !slices.Equal(s.commands, want) {
		t.Errorf("%q, want %q", s.commands, want)
	}
}

func TestSend_says_HELO_where_EHLO_is_unknown(t *testing.T) {
	s := &server{}
	if status, stdout, stderr := s.send(t, "\r\nhello\r\n", annToBob...); status != exitDone {
		t.Errorf("exit status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	if want := []string{"EHLO client.example.com", "HELO client.example.com", "MAIL FROM:<ann@example.com>"}; !slices.Equal(s.commands[:3], want) {
		t.Errorf("%q, want %q", s.commands, want)
	}
}

func TestSend_changes_no_octet_but_line_ends_and_leading_dots(t *testing.T) {
	tests := []struct{ name, mail, wire string }{
		{"CRLF stays", "a: b\r\n\r\nc\r\n", "a: b\r\n\r\nc\r\n"},
		{"bare line feeds become CRLF", "a: b\n\nc\n", "a: b\r\n\r\nc\r\n"},
		{"both in one mail", "a: b\r\n\nc\r\nd\n", "a: b\r\n\r\nc\r\nd\r\n"},
		{"a missing last line end is added", "\r\nc", "\r\nc\r\n"},
		{"a bare CR stays", "\r\nc\rd\r\n", "\r\nc\rd\r\n"},
		{"a bare CR at the end becomes CRLF", "\r\nc\r", "\r\nc\r\n"},
		{"leading dots are doubled", "\r\n.\r\n..x\r\n.y\r\nz.\r\n", "\r\n..\r\n...x\r\n..y\r\nz.\r\n"},
		{"a dot is the whole mail", ".", "..\r\n"},
		{"a dot behind a bare CR is not at the start of a line", "\r\na\r.\r\n", "\r\na\r.\r\n"},
		{"octets that are no text", "\r\n\x00\xff\xfe\x1b\r\n", "\r\n\x00\xff\xfe\x1b\r\n"},
		{"a mail larger than a buffer", "\r\n" + strings.Repeat(".x\r\n", 50_000), "\r\n" + strings.Repeat("..x\r\n", 50_000)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &server{offers: []string{"SIZE"}}
			if status, _, stderr := s.send(t, test.mail, annToBob...); status != exitDone {
				t.Fatalf("exit status %d, stderr %q", status, stderr)
			}
			if string(s.content) != test.wire {
				t.Errorf("%.100q, want %.100q", s.content, test.wire)
			}
			unstuffed := regexp.MustCompile(`(?m)^\.`).ReplaceAllString(test.wire, "")
			if want := fmt.Sprintf("MAIL FROM:<ann@example.com> SIZE=%d", len(unstuffed)); s.commands[1] != want {
				t.Errorf("%q, want %q", s.commands[1], want)
			}
		})
	}
}

func TestSend_reads_the_file_that_is_named(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.eml")
	if err := os.WriteFile(path, []byte("\r\nfrom the file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{offers: []string{"HELP"}}
	s.send(t, "from stdin", append([]string{path}, annToBob...)...)
	if string(s.content) != "\r\nfrom the file\r\n" {
		t.Errorf("%q", s.content)
	}
	s = &server{offers: []string{"HELP"}}
	s.send(t, "\r\nfrom stdin\r\n", append(annToBob, "-")...)
	if string(s.content) != "\r\nfrom stdin\r\n" {
		t.Errorf("%q", s.content)
	}
}

func TestSend_prints_a_refusal_and_what_was_refused(t *testing.T) {
	tests := []struct {
		name    string
		answers map[string]string
		stdout  string
		stderr  string
		last    string // command
	}{
		{"in the greeting", map[string]string{"": "554 5.7.1 not you"}, "", "greeting: 554 5.7.1 not you\n", "QUIT"},
		{"of EHLO", map[string]string{"EHLO": "501 5.5.4 junk"}, "", "EHLO client.example.com: 501 5.5.4 junk\n", "QUIT"},
		{"of the sender", map[string]string{"MAIL": "452 4.3.1 full"}, "", "MAIL FROM:<ann@example.com>: 452 4.3.1 full\n", "QUIT"},
		{"of every recipient", map[string]string{"RCPT": "550 5.1.1 unknown"}, "",
			"RCPT TO:<bob@example.net>: 550 5.1.1 unknown\nRCPT TO:<eve@example.org>: 550 5.1.1 unknown\n", "QUIT"},
		{"of one recipient, the other gets the mail", map[string]string{"RCPT TO:<bob": "550 5.1.1 unknown"}, "250 2.0.0 Ok: queued as 1\n",
			"RCPT TO:<bob@example.net>: 550 5.1.1 unknown\n", "QUIT"},
		{"of one recipient and then of the mail", map[string]string{"RCPT TO:<bob": "550 5.1.1 unknown", ".": "451 4.3.0 later"}, "",
			"RCPT TO:<bob@example.net>: 550 5.1.1 unknown\nend of data: 451 4.3.0 later\n", "QUIT"},
		{"of DATA", map[string]string{"DATA": "452 4.3.1 full"}, "", "DATA: 452 4.3.1 full\n", "QUIT"},
		{"in several lines", map[string]string{".": "550-5.6.0 bare LF\r\n550 5.6.0 go away"}, "", "end of data: 550 5.6.0 bare LF\n550 5.6.0 go away\n", "QUIT"},
		{"with escape sequences", map[string]string{".": "550 \x1b[2J\u009b"}, "", "end of data: 550 \\x1b[2J\\u009b\n", "QUIT"},
		{"because the server closes", map[string]string{"RCPT TO:<bob": "421 4.3.2 closing"}, "", "RCPT TO:<bob@example.net>: 421 4.3.2 closing\n", "QUIT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &server{offers: []string{"HELP"}, answers: test.answers}
			status, stdout, stderr := s.send(t, "\r\nhello\r\n", "--from", "ann@example.com", "--to", "bob@example.net,eve@example.org")
			if status != exitFailed || stdout != test.stdout || stderr != test.stderr {
				t.Errorf("exit status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
			if last := s.commands[len(s.commands)-1]; last != test.last {
				t.Errorf("the last command was %q, want %q", last, test.last)
			}
		})
	}
}

func TestSend_tells_where_the_connection_broke(t *testing.T) {
	for _, command := range []string{"EHLO", "MAIL", "RCPT", "DATA"} {
		s := &server{offers: []string{"HELP"}, hangUp: command}
		status, stdout, stderr := s.send(t, "\r\nhello\r\n", annToBob...)
		if status != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "lsmtpd send: "+command) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit status %d, stdout %q, stderr %q", command, status, stdout, stderr)
		}
	}
}

func TestSend_tells_what_a_server_said_that_closed_inside_the_mail(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for _, answer := range []string{"220 hello", "250 hello", "250 ok", "250 ok", "354 go on"} {
			fmt.Fprint(conn, answer+"\r\n")
		}
		// Only part of the mail is read: the close resets the connection, which is what the client meets in its writes.
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
		fmt.Fprint(conn, "552 5.3.4 too large\r\n")
	}()
	m := &submission{helo: "x", from: "a@x", to: []string{"b@x"}, content: bytes.Repeat([]byte("0123456\r\n"), 4<<20)}
	_, refusals, err := submit(m, l.Addr().String(), 10*time.Second)
	if err != nil || len(refusals) != 1 || refusals[0].reply.code != 552 {
		t.Errorf("%v, %v", refusals, err)
	}
}

func TestSend_gives_up_on_a_silent_server(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it never accepts: the kernel does
	var out, stderr bytes.Buffer
	p := &program{stdin: strings.NewReader("x"), stdout: &out, stderr: &stderr}
	args := append([]string{"send", "--server", l.Addr().String(), "--timeout", "50ms"}, annToBob...)
	if status := p.dispatch(args); status != exitFailed || !strings.Contains(stderr.String(), "greeting: ") || !strings.Contains(stderr.String(), "timeout") {
		t.Errorf("exit status %d, stderr %q", status, stderr.String())
	}
}

func TestSend_makes_a_mail_that_can_be_read(t *testing.T) {
	s := &server{offers: []string{"8BITMIME"}}
	s.send(t, "", "--from", "ann@example.com", "--to", "bob@example.net,eve@example.org", "--subject", "Grüße\r\nBcc: x", "--body", "Schöne\nGrüße")
	if s.commands[1] != "MAIL FROM:<ann@example.com> BODY=8BITMIME" {
		t.Errorf("%q", s.commands[1])
	}
	m, err := mail.ReadMessage(bytes.NewReader(s.content))
	if err != nil {
		t.Fatalf("%v in %q", err, s.content)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 2 || to[1].Address != "eve@example.org" {
		t.Errorf("To: %v, %v", to, err)
	}
	if from, err := m.Header.AddressList("From"); err != nil || from[0].Address != "ann@example.com" {
		t.Errorf("From: %v, %v", from, err)
	}
	if date, err := m.Header.Date(); err != nil || time.Since(date).Abs() > time.Minute {
		t.Errorf("Date: %v, %v", date, err)
	}
	if got := subject(s.content); got != "Grüße\r\nBcc: x" {
		t.Errorf("Subject: %q", got)
	}
	if m.Header.Get("Bcc") != "" || m.Header.Get("Message-ID") == "" || m.Header.Get("Content-Transfer-Encoding") != "8bit" {
		t.Errorf("%q", m.Header)
	}
	if body, _ := io.ReadAll(m.Body); string(body) != "Schöne\r\nGrüße\r\n" {
		t.Errorf("body %q", body)
	}
}

func TestSend_refuses_what_would_be_another_command(t *testing.T) {
	for _, args := range [][]string{
		{"--from", "a@x>\r\nRSET\r\n<", "--to", "b@x"}, {"--from", "a@x", "--to", "b@x\nDATA"}, {"--from", "a@x", "--to", "b@x", "--helo", "h\rX"},
	} {
		var out, stderr bytes.Buffer
		p := &program{stdin: strings.NewReader("x"), stdout: &out, stderr: &stderr}
		if status := p.dispatch(append([]string{"send", "--server", "127.0.0.1:1"}, args...)); status != exitUsage {
			t.Errorf("%q: exit status %d, stderr %q", args, status, stderr.String())
		}
	}
}
