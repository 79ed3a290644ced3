package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	writePatience   = 15 * time.Second // a write that moves nothing for so long is stuck
	blockedPatience = 10 * time.Minute // while the broker says that it does not read
	corkSize        = 64 << 10         // octets collected before they are written all the same
)

// conn is the socket to the broker. It owns both deadlines, because the client library refreshes its read deadline only
// after taking a lock that a stuck write holds, and it can be corked: while the publisher has more to publish, frames are
// collected, and leave in one write.
type conn struct {
	net.Conn
	silence  atomic.Int64 // nanoseconds a read may wait; 0 until the handshake is over
	patience atomic.Int64 // nanoseconds a write may take; 0 until the handshake is over
	unbind   func() bool  // ends the handshake's dependence on its context

	asked  atomic.Bool           // our password was the last that passed
	failed atomic.Pointer[error] // the first that a read or write met

	// guarded by mu
	mu      sync.Mutex
	corked  bool
	pending []byte
}

// newConn bounds the whole handshake: it fails at the time by, and when ctx ends. established ends that bound.
func newConn(ctx context.Context, c net.Conn, by time.Time) (*conn, error) {
	return &conn{Conn: c, unbind: context.AfterFunc(ctx, func() { c.Close() })}, c.SetDeadline(by)
}

// established begins the deadlines of normal life: the broker sends something at least every half heartbeat.
func (c *conn) established(heartbeat time.Duration) {
	c.unbind()
	c.patience.Store(int64(writePatience))
	c.silence.Store(int64(heartbeat + heartbeat/2))
	// A read may be waiting already, on the handshake's deadline.
	c.Conn.SetDeadline(time.Now().Add(heartbeat + heartbeat/2))
}

// blocked tells whether the broker has stopped reading on purpose; a write under way gets the new patience too.
func (c *conn) blocked(is bool) {
	patience := writePatience
	if is {
		patience = blockedPatience
	}
	c.patience.Store(int64(patience))
	c.Conn.SetWriteDeadline(time.Now().Add(patience))
}

// SetDeadline, SetReadDeadline and SetWriteDeadline ignore the library: the deadlines are the conn's own.
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// Read closes the socket on any error: that is what frees a write that is stuck on a dead peer.
func (c *conn) Read(b []byte) (int, error) {
	if d := c.silence.Load(); d > 0 {
		c.Conn.SetReadDeadline(time.Now().Add(time.Duration(d)))
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.asked.Store(false)
	}
	if err != nil {
		c.fail(err)
	}
	return n, err
}

// fail notes the first error, and closes the socket: that frees whoever still waits for it.
func (c *conn) fail(err error) {
	c.failed.CompareAndSwap(nil, &err)
	c.Conn.Close()
}

// failure is what the connection ended of; nil while it lives, or where its end was ours.
func (c *conn) failure() error {
	if err := c.failed.Load(); err != nil && !errors.Is(*err, net.ErrClosed) {
		return *err
	}
	return nil
}

// Write collects b while corked.
func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.corked {
		return len(b), c.write(b)
	}
	if len(c.pending)+len(b) <= corkSize {
		c.pending = append(c.pending, b...)
		return len(b), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if len(b) > corkSize {
		return len(b), c.write(b)
	}
	c.pending = append(c.pending, b...)
	return len(b), nil
}

// cork begins to collect. The owner uncorks before it waits for anything: heartbeats are collected too.
func (c *conn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was collected. An error has closed the socket; the reader's end reports it.
func (c *conn) uncork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked {
		c.corked = false
		c.flush()
	}
}

func (c *conn) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	err := c.write(c.pending)
	c.pending = c.pending[:0]
	return err
}

func (c *conn) write(b []byte) error {
	if d := c.patience.Load(); d > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(time.Duration(d)))
	}
	_, err := c.Conn.Write(b)
	if err != nil && c.patience.Load() == 0 && hungUp(err) {
		return nil // who reads meets it too, and what the peer said before
	}
	if err != nil {
		c.fail(err)
	}
	return err
}

// hungUp tells whether err is of a peer that ended the connection.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// secured is TLS on a conn. In TLS 1.3 a broker refuses a client's certificate after the handshake, by an alert that comes with the first
// read; the client library may tell only of what it met afterwards.
type secured struct {
	*tls.Conn
	failed atomic.Pointer[error] // the first that a read met
}

func (s *secured) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// alert is how the peer refused our side of TLS; nil where it did not.
func (s *secured) alert() error {
	if s == nil {
		return nil
	}
	if err := s.failed.Load(); err != nil && alertOf(*err) != "" {
		return *err
	}
	return nil
}

// alertOf is what a peer's alert says, "" where err is no such.
func alertOf(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}
