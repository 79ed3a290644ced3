// Package smtptest speaks SMTP as a client for tests: octets as they are given, mails, and transcripts from files.
// It does not know the server, and forgives it nothing.
package smtptest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience is a new Client's, and how long Connect waits.
const patience = time.Minute

// Reply is what the server answered: its lines without their ends, parted by "\n", each with its code.
type Reply string

// Code returns the reply's code, 0 where it has none.
func (r Reply) Code() int {
	code, _ := strconv.Atoi(string(r[:min(3, len(r))]))
	return code
}

// Client is one connection. Its methods return errors, so that any goroutine may use it; Conn fails a test instead.
type Client struct {
	net.Conn
	Patience time.Duration // how long it waits for a reply, and to be read
	in       *bufio.Reader
}

// NewClient speaks on c, which may be any connection.
func NewClient(c net.Conn) *Client {
	return &Client{Conn: c, Patience: patience, in: bufio.NewReader(c)}
}

// Connect connects to "host:port" or "unix:/path". It reads nothing.
func Connect(addr string) (*Client, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return nil, err
	}
	return NewClient(c), nil
}

// Send sends octets as they are.
func (c *Client) Send(octets string) error {
	c.SetWriteDeadline(time.Now().Add(c.Patience))
	_, err := io.WriteString(c.Conn, octets)
	return err
}

// Receive reads one reply. A reply that RFC 5321 section 4.2 does not allow is an error.
func (c *Client) Receive() (Reply, error) {
	c.SetReadDeadline(time.Now().Add(c.Patience))
	var r strings.Builder
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			if line != "" {
				return "", fmt.Errorf("half a reply %q: %w", line, err)
			}
			return "", err
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok || len(text) < 4 || (text[3] != ' ' && text[3] != '-') || r.Len() > 0 && text[:3] != r.String()[:3] {
			return "", fmt.Errorf("malformed reply %q", r.String()+line)
		}
		r.WriteString(text)
		if text[3] == ' ' {
			return Reply(r.String()), nil
		}
		r.WriteByte('\n')
	}
}

// Exchange sends a line and reads its reply.
func (c *Client) Exchange(line string) (Reply, error) {
	if err := c.Send(line + "\r\n"); err != nil {
		return "", err
	}
	return c.Receive()
}

// Hello reads the greeting and says EHLO.
func (c *Client) Hello() (Reply, error) {
	if r, err := c.Receive(); err != nil || r.Code() != 220 {
		return r, err
	}
	return c.Exchange("EHLO client.example")
}

// Deliver sends one mail as a pipelining client does, in two writes, and returns the reply to its end; or the first refusal,
// where all recipients or the mail were refused before. from and to are without angle brackets.
func (c *Client) Deliver(from string, to []string, content string) (Reply, error) {
	var envelope strings.Builder
	fmt.Fprintf(&envelope, "MAIL FROM:<%s>\r\n", from)
	for _, rcpt := range to {
		fmt.Fprintf(&envelope, "RCPT TO:<%s>\r\n", rcpt)
	}
	envelope.WriteString("DATA\r\n")
	if err := c.Send(envelope.String()); err != nil {
		return "", err
	}
	var refusal, last Reply
	for range len(to) + 2 {
		r, err := c.Receive()
		if err != nil {
			return "", err
		}
		if refusal == "" && r.Code() >= 400 {
			refusal = r
		}
		last = r
	}
	if last.Code() != 354 {
		return refusal, nil
	}
	return c.Exchange(Stuff(content) + ".")
}

// Stuff returns content as it is sent after DATA, without the final dot: dots at the beginning of a line doubled, the last
// line ended.
func Stuff(content string) string {
	if content != "" && !strings.HasSuffix(content, "\r\n") {
		content += "\r\n"
	}
	stuffed := strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n..")
	return strings.TrimPrefix(stuffed, "\r\n")
}

// StartTLS makes the client's side of a handshake; what follows is encrypted.
func (c *Client) StartTLS(config *tls.Config) error {
	c.SetDeadline(time.Now().Add(c.Patience))
	conn := tls.Client(c.Conn, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.Conn, c.in = conn, bufio.NewReader(conn)
	return nil
}

// CloseWrite tells the server that nothing more comes.
func (c *Client) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// End waits for the server's end of the connection. Anything else, a reset above all, is an error.
func (c *Client) End() error {
	c.SetReadDeadline(time.Now().Add(c.Patience))
	switch b, err := c.in.ReadByte(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return fmt.Errorf("instead of the end: %w", err)
	default:
		rest, _ := c.in.Peek(c.in.Buffered())
		return fmt.Errorf("instead of the end: %q", string(b)+string(rest))
	}
}
