package smtptest

import (
	"net"
	"testing"
)

// Conn is a Client whose methods fail the test instead of returning an error.
type Conn struct {
	*Client
	t testing.TB
}

// Dial connects to "host:port" or "unix:/path" until the end of the test. It reads nothing.
func Dial(t testing.TB, addr string) *Conn {
	t.Helper()
	c, err := Connect(addr)
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	return New(t, c.Conn)
}

// Open dials, reads the greeting and says EHLO.
func Open(t testing.TB, addr string) *Conn {
	t.Helper()
	c := Dial(t, addr)
	r, err := c.Client.Hello()
	if err != nil || r.Code() != 250 {
		t.Fatalf("hello: %q, %v", r, err)
	}
	return c
}

// New speaks on c until the end of the test.
func New(t testing.TB, c net.Conn) *Conn {
	t.Cleanup(func() { c.Close() })
	return &Conn{Client: NewClient(c), t: t}
}

// Send sends octets as they are.
func (c *Conn) Send(octets string) {
	c.t.Helper()
	if err := c.Client.Send(octets); err != nil {
		c.t.Fatalf("send %.100q: %v", octets, err)
	}
}

// Reply reads one reply.
func (c *Conn) Reply() Reply {
	c.t.Helper()
	r, err := c.Receive()
	if err != nil {
		c.t.Fatalf("read a reply: %v", err)
	}
	return r
}

// Do sends a line and returns its reply.
func (c *Conn) Do(line string) Reply {
	c.t.Helper()
	c.Send(line + "\r\n")
	return c.Reply()
}

// Want reads one reply and compares it.
func (c *Conn) Want(want Reply) {
	c.t.Helper()
	if r := c.Reply(); r != want {
		c.t.Fatalf("reply %q, want %q", r, want)
	}
}

// SendMail delivers one mail and returns the reply to its end, or the refusal that came before.
func (c *Conn) SendMail(from string, to []string, content string) Reply {
	c.t.Helper()
	r, err := c.Deliver(from, to, content)
	if err != nil {
		c.t.Fatalf("send a mail: %v", err)
	}
	return r
}

// WantEnd waits for the server's end of the connection. A reset fails the test.
func (c *Conn) WantEnd() {
	c.t.Helper()
	if err := c.End(); err != nil {
		c.t.Fatal(err)
	}
}
