package amqptest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// conn is one client's connection. One goroutine reads and runs scripts, another writes, so that nobody waits for a client
// that does not read.
type conn struct {
	broker      *Broker
	number      int
	tcp         *net.TCPConn
	socket      net.Conn // tcp, or TLS on it
	in          *bufio.Reader
	done        chan struct{} // closed with the socket
	established atomic.Bool

	// owned by serve
	frameMax  int // of what is sent
	blockable bool
	channels  map[uint16]*channel

	mu      sync.Mutex // guards what follows
	out     []byte
	more    chan struct{} // told when there is something to do for write
	closing bool          // connection.close was sent: nothing follows it
	mute    bool          // nothing more is to be written
	over    bool          // the socket is to be closed once out is written
	ended   bool          // done is closed
}

// newConn makes what serves one socket. The caller holds b's mu.
func newConn(b *Broker, tcp *net.TCPConn, number int) *conn {
	c := &conn{
		broker:   b,
		number:   number,
		tcp:      tcp,
		socket:   tcp,
		done:     make(chan struct{}),
		frameMax: b.frameMax,
		channels: map[uint16]*channel{},
		more:     make(chan struct{}, 1),
	}
	if b.tls != nil {
		c.socket = tls.Server(tcp, b.tls)
	}
	c.in = bufio.NewReader(c)
	return c
}

// Read is the socket's behind the gate: what arrives while that is shut is held, too.
func (c *conn) Read(b []byte) (int, error) {
	if !c.broker.reads.pass(c.done) {
		return 0, net.ErrClosed
	}
	n, err := c.socket.Read(b)
	if !c.broker.reads.pass(c.done) {
		return 0, net.ErrClosed
	}
	return n, err
}

// next reads one frame. What was buffered before the gate was shut waits before it.
func (c *conn) next() (frame, error) {
	if !c.broker.reads.pass(c.done) {
		return frame{}, net.ErrClosed
	}
	return readFrame(c.in, c.frameMax)
}

// serve talks to the client to the connection's end.
func (c *conn) serve() {
	if err := c.converse(); errors.Is(err, errOver) {
		c.finish()
	} else {
		c.reset() // nobody is there
	}
	<-c.done
}

// converse returns errOver where the connection ends in good order.
func (c *conn) converse() error {
	if t, ok := c.socket.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			return err
		}
	}
	if err := c.forgive(c.handshake()); err != nil {
		return err
	}
	if !c.isClosing() {
		c.established.Store(true)
		defer c.established.Store(false)
		c.broker.happened()
	}
	for {
		f, err := c.next()
		if err != nil {
			if c.forgive(err) != nil {
				return err
			}
			return errOver // where the next frame begins nobody knows
		}
		if err := c.forgive(c.on(f)); err != nil {
			return err
		}
	}
}

// forgive closes the connection for what the client did wrong, and waits for its answer then; other errors it returns.
func (c *conn) forgive(err error) error {
	wrong, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		return err
	}
	c.close(uint16(wrong.Code), wrong.Reason)
	return nil
}

// on handles a frame.
func (c *conn) on(f frame) error {
	switch {
	case f.channel == 0 && f.kind == frameMethod:
		return c.onConnection(f)
	case f.channel == 0 || c.isClosing():
		return nil // a heartbeat, or what was under way
	}
	return c.onChannel(f)
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// onConnection handles a method of channel 0.
func (c *conn) onConnection(f frame) error {
	m, a := f.method()
	switch m {
	case connectionClose:
		c.append(newCall(connectionCloseOK))
		return errOver
	case connectionCloseOK:
		return errOver
	case connectionUpdateSecret:
		secret := a.longstr()
		c.broker.updated(secret)
		c.send(newCall(connectionUpdateSecretOK))
		return a.err
	}
	return &amqp.Error{Code: amqp.CommandInvalid, Reason: "COMMAND_INVALID - a method that is no server's"}
}

// write writes what was appended, as soon as the gate lets it.
func (c *conn) write() {
	for {
		select {
		case <-c.more:
		case <-c.done:
			return
		}
		if !c.broker.writes.pass(c.done) {
			return
		}
		c.mu.Lock()
		out, over := c.out, c.over
		c.out = nil
		c.mu.Unlock()
		if len(out) > 0 {
			if _, err := c.socket.Write(out); err != nil {
				c.reset()
				return
			}
		}
		if over {
			c.end(-1)
			return
		}
	}
}

// heartbeats says that the broker is alive, twice as often as the client wants to hear it.
func (c *conn) heartbeats(interval time.Duration) {
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.mu.Lock()
			c.enqueue(appendFrame(nil, frameHeartbeat, 0, nil))
			c.mu.Unlock()
		case <-c.done:
			return
		}
	}
}

// send sends a method on channel 0, unless the connection is closing.
func (c *conn) send(m call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.enqueue(appendFrame(nil, frameMethod, 0, m))
	}
}

// append sends a method on channel 0 even if the connection is closing.
func (c *conn) append(m call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enqueue(appendFrame(nil, frameMethod, 0, m))
}

// enqueue has octets written. c.mu is held.
func (c *conn) enqueue(octets []byte) {
	if c.mute || c.over {
		return
	}
	c.out = append(c.out, octets...)
	c.wake()
}

func (c *conn) wake() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// close tells the client to close, and why; the client's answer ends the connection.
func (c *conn) close(code uint16, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.enqueue(appendFrame(nil, frameMethod, 0, newCall(connectionClose).short(code).shortstr(text).long(0)))
	c.closing = true
}

// lastWords are the last octets that the client hears.
func (c *conn) lastWords(octets []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enqueue(octets)
	c.mute = true
}

// finish closes the socket once everything is written.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.wake()
}

// reset closes the socket with RST.
func (c *conn) reset() { c.end(0) }

func (c *conn) end(linger int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.done)
	if linger < 0 {
		c.socket.Close()
		return
	}
	c.tcp.SetLinger(linger)
	c.tcp.Close()
}
