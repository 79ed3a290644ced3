package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	quitTimeout    = 2 * time.Second // the mail is settled by then: not worth a wait
	maxReplies     = 16 << 20        // octets of replies read in one session, so that no server can fill the memory
)

// submission is one mail and its envelope, as a client hands it to a server.
type submission struct {
	helo    string
	from    string // "" is the null sender
	to      []string
	content []byte
}

// reply is what a server answered.
type reply struct {
	code int
	text string // the lines without their code, with line feeds between
}

// String is r as it came, with line feeds between the lines.
func (r reply) String() string {
	return fmt.Sprintf("%03d %s", r.code, strings.ReplaceAll(r.text, "\n", fmt.Sprintf("\n%03d ", r.code)))
}

// refusal is a reply that is not the one hoped for, and what it answers.
type refusal struct {
	command string
	reply   reply
}

func (r *refusal) Error() string { return r.command + ": " + r.reply.String() }

// smtpClient is the client's side of one session.
type smtpClient struct {
	r          *textproto.Reader
	w          *textproto.Writer
	extensions map[string]bool // by keyword, in upper case
}

// submit hands m to the SMTP server at address, each reply within timeout. It goes on when some recipients are refused.
// The final reply is the one to the content, and zero where it did not come to that.
func submit(m *submission, address string, timeout time.Duration) (final reply, refusals []*refusal, err error) {
	conn, err := net.DialTimeout("tcp", address, connectTimeout)
	if err != nil {
		return reply{}, nil, err
	}
	defer conn.Close()
	wire := &timedConn{Conn: conn, timeout: timeout}
	c := &smtpClient{
		r: textproto.NewReader(bufio.NewReader(io.LimitReader(wire, maxReplies))),
		w: textproto.NewWriter(bufio.NewWriterSize(wire, 64<<10)),
	}
	final, refusals, err = c.session(m)
	if refused, ok := err.(*refusal); ok {
		refusals, err = append(refusals, refused), nil
	}
	if err == nil {
		wire.timeout = quitTimeout
		// What the server says to QUIT changes nothing any more.
		_, _ = c.do("QUIT", 221)
	}
	return final, refusals, err
}

// session is everything from the greeting to the reply to the content. An error that is a *refusal ended it.
func (c *smtpClient) session(m *submission) (final reply, refusals []*refusal, err error) {
	if _, err := c.read("greeting", 220); err != nil {
		return reply{}, nil, err
	}
	if err := c.hello(m.helo); err != nil {
		return reply{}, nil, err
	}
	if _, err := c.do("MAIL FROM:<"+m.from+">"+c.parameters(m), 250); err != nil {
		return reply{}, nil, err
	}
	for _, to := range m.to {
		_, err := c.do("RCPT TO:<"+to+">", 25)
		refused, ok := err.(*refusal)
		switch {
		case err == nil:
		case ok && refused.reply.code != 421: // 421: the server is about to close
			refusals = append(refusals, refused)
		default:
			return reply{}, refusals, err
		}
	}
	if len(refusals) == len(m.to) {
		return reply{}, refusals, nil
	}
	if _, err := c.do("DATA", 354); err != nil {
		return reply{}, refusals, err
	}
	final, err = c.data(m.content)
	return final, refusals, err
}

// hello says EHLO, or HELO to a server that does not know it (RFC 5321 3.2).
func (c *smtpClient) hello(name string) error {
	answer, err := c.do("EHLO "+name, 250)
	if refused, ok := err.(*refusal); ok && (refused.reply.code == 500 || refused.reply.code == 502) {
		_, err = c.do("HELO "+name, 250)
		return err
	}
	if err != nil {
		return err
	}
	c.extensions = map[string]bool{}
	_, lines, _ := strings.Cut(answer.text, "\n") // the first is the greeting
	for line := range strings.Lines(lines) {
		keyword, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		c.extensions[strings.ToUpper(keyword)] = true
	}
	return nil
}

// parameters are those of MAIL that m needs and the server offers (RFC 1870, 6152, 6531).
func (c *smtpClient) parameters(m *submission) string {
	var b strings.Builder
	if c.extensions["SIZE"] {
		fmt.Fprintf(&b, " SIZE=%d", wireSize(m.content))
	}
	if c.extensions["8BITMIME"] && !ascii(m.content) {
		b.WriteString(" BODY=8BITMIME")
	}
	if c.extensions["SMTPUTF8"] && !(ascii(m.from) && ascii(strings.Join(m.to, "")) && ascii(header(m.content))) {
		b.WriteString(" SMTPUTF8")
	}
	return b.String()
}

// data sends the content and its end. DotWriter makes line ends CRLF and doubles leading dots.
func (c *smtpClient) data(content []byte) (reply, error) {
	w := c.w.DotWriter()
	_, err := w.Write(content)
	if closed := w.Close(); err == nil {
		err = closed
	}
	if err == nil {
		return c.read("end of data", 250)
	}
	// A server that cannot bear the mail may answer and close before all of it was written.
	_, early := c.read("DATA", 250)
	if refused, ok := early.(*refusal); ok {
		return reply{}, refused
	}
	return reply{}, fmt.Errorf("DATA: %w", err)
}

// do sends a command and reads its reply, as read does.
func (c *smtpClient) do(command string, want int) (reply, error) {
	if err := c.w.PrintfLine("%s", command); err != nil {
		return reply{}, fmt.Errorf("%s: %w", command, err)
	}
	return c.read(command, want)
}

// read reads the reply to what command names. A code that does not begin with want is a *refusal.
func (c *smtpClient) read(command string, want int) (reply, error) {
	code, text, err := c.r.ReadResponse(want)
	if _, ok := err.(*textproto.Error); ok {
		return reply{}, &refusal{command, reply{code, text}}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errors.New("the server closed the connection")
	}
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", command, err)
	}
	return reply{code, text}, nil
}

// timedConn gives each read and each write its own deadline.
type timedConn struct {
	net.Conn
	timeout time.Duration
}

func (c *timedConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// wireSize is how many octets data sends of content, doubled dots and the end of data left out (RFC 1870 3).
func wireSize(content []byte) int {
	n := len(content) + bytes.Count(content, []byte("\n")) - bytes.Count(content, []byte("\r\n"))
	switch {
	case bytes.HasSuffix(content, []byte("\n")):
	case bytes.HasSuffix(content, []byte("\r")):
		n++
	default:
		n += 2
	}
	return n
}

// header is the part of a mail before the first empty line.
func header(content []byte) []byte {
	end := len(content)
	for _, empty := range []string{"\r\n\r\n", "\n\n"} {
		if i := bytes.Index(content[:end], []byte(empty)); i >= 0 {
			end = i
		}
	}
	return content[:end]
}
