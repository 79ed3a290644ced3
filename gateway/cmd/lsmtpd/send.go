package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const sendHelp = `usage: lsmtpd send --from ADDRESS --to ADDRESS [FLAGS] [FILE]

Hands one mail to an SMTP server and prints the server's last reply. It is a
test client: it speaks no TLS and does not log in.

The mail is FILE, or standard input ("-" names it too). With --subject or
--body, and on a terminal without FILE, a short mail is made instead.

Addresses go out as they are given, so that a server can be seen to refuse a
bad one. --from "<>" is the null sender of bounces.

The octets of the mail are sent as they are, but: a bare line feed becomes
CRLF, a mail that does not end with a line end gets one, and a dot that begins
a line is doubled on the wire, where the server takes it off again.

flags:
{flags}

exit status: 0 the server took the mail for every recipient, 1 it refused
something (the reply is printed; the other recipients get the mail) or could
not be reached

examples:
  lsmtpd send --from ann@example.com --to bob@example.net
  lsmtpd send --from ann@example.com --to bob@example.net,eve@example.org \
    --server 127.0.0.1:2526 mail.eml
  lsmtpd send --from ann@example.com --to bob@example.net \
    --subject "Hello" --body "Is this thing on?"
`

func runSend(p *program, args []string) int {
	f := p.flags("send", sendHelp)
	m := submission{}
	f.StringVar(&m.from, "from", "", "the `ADDRESS` of the sender")
	f.Var((*words)(&m.to), "to", "the `ADDRESS` of a recipient; more of them behind commas, or given again")
	server := f.String("server", "127.0.0.1:2525", "the server, as `HOST:PORT`")
	f.StringVar(&m.helo, "helo", "", "the `NAME` to say in EHLO; this machine's where it is not given")
	subject := f.String("subject", "", "make a mail with this `TEXT` as its subject")
	body := f.String("body", "", "make a mail that says this `TEXT`")
	timeout := f.Duration("timeout", time.Minute, "the longest `DURATION` to wait for a reply")
	operands, err := f.parse(args, 1)
	if err != nil {
		return f.refuse(err)
	}
	if m.helo == "" {
		m.helo = hostname()
	}
	if err := m.check(); err != nil {
		return f.refuse(err)
	}
	made := *subject != "" || *body != "" || len(operands) == 0 && isTerminal(p.stdin)
	switch {
	case made && len(operands) > 0:
		return f.refuse(errors.New("--subject and --body make a mail, FILE holds one: give one of them"))
	case made:
		m.content = testMail(&m, *subject, *body)
	default:
		if m.content, err = readMail(p.stdin, operands); err != nil {
			return f.failed(err)
		}
	}
	return p.submit(f, &m, *server, *timeout)
}

// submit hands m to server and prints what it answered.
func (p *program) submit(f *flags, m *submission, server string, timeout time.Duration) int {
	final, refusals, err := submit(m, server, timeout)
	for _, r := range refusals {
		fmt.Fprintln(p.stderr, printable(r.Error()))
	}
	if err != nil {
		return f.failed(err)
	}
	if final.code != 0 {
		fmt.Fprintln(p.stdout, printable(final.String()))
	}
	if len(refusals) > 0 {
		return exitFailed
	}
	return exitDone
}

// check finds what would not be a command any more, or is missing. Everything else is for the server to judge.
func (m *submission) check() error {
	if m.from == "" || len(m.to) == 0 {
		return errors.New("--from and --to are needed")
	}
	m.from = bare(m.from)
	for i, to := range m.to {
		if m.to[i] = bare(to); m.to[i] == "" {
			return errors.New("a recipient of --to is empty")
		}
	}
	for _, s := range append([]string{m.helo, m.from}, m.to...) {
		if strings.ContainsAny(s, "\r\n") {
			return fmt.Errorf("%q holds a line end, which would begin another SMTP command", s)
		}
	}
	return nil
}

// bare takes the angle brackets off an address.
func bare(address string) string {
	if inner, ok := strings.CutPrefix(address, "<"); ok {
		return strings.TrimSuffix(inner, ">")
	}
	return address
}

// readMail reads the file that operands name, else stdin.
func readMail(stdin io.Reader, operands []string) ([]byte, error) {
	if len(operands) > 0 && operands[0] != "-" {
		return os.ReadFile(operands[0])
	}
	content, err := io.ReadAll(stdin)
	if err == nil && len(content) == 0 {
		err = errors.New("standard input is empty: name a file, or have a mail made with --subject or --body")
	}
	return content, err
}

// testMail is a small mail with the fields that RFC 5322 asks for.
func testMail(m *submission, subject, body string) []byte {
	if subject == "" {
		subject = "A test of lsmtpd"
	}
	if body == "" {
		body = "This mail was made by \"lsmtpd send\"."
	}
	from := m.from
	if from == "" {
		from = "MAILER-DAEMON@" + m.helo // a bounce has no sender, but its From field has an author
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\n", from)
	fmt.Fprintf(&b, "To: <%s>\r\n", strings.Join(m.to, ">,\r\n <"))
	fmt.Fprintf(&b, "Subject: %s\r\n", mime.QEncoding.Encode("utf-8", subject))
	fmt.Fprintf(&b, "Date: %s\r\n", time.Now().Format(time.RFC1123Z))
	fmt.Fprintf(&b, "Message-ID: <%s@%s>\r\n", uuid.New(), m.helo)
	if !ascii(body) {
		b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n")
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", body)
	return b.Bytes()
}

// hostname is this machine's, or a name that always means itself.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}

// ascii tells whether s has 7-bit octets only.
func ascii[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
