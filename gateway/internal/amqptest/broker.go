// Package amqptest is a broker's double: it speaks AMQP 0-9-1 as RabbitMQ does to a publisher, and misbehaves as a test tells
// it. It routes nothing and keeps no queues; it does not know lsmtpd.
package amqptest

import (
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"
)

// patience is how long the double may wait for what a test says will come.
const patience = time.Minute

// Broker is the double. Its methods may be called at any time and by anybody, and take effect at once on connections that
// are open, too.
type Broker struct {
	t       testing.TB
	addr    string
	tls     *tls.Config // nil: none
	running sync.WaitGroup
	reads   gate
	writes  gate

	scripting sync.Mutex // scripts run one at a time

	mu        sync.Mutex // guards what follows
	listener  net.Listener
	conns     map[*conn]struct{}
	attempts  int
	channels  int
	script    func(*Publish)
	published []*Publish
	login     Login
	logins    []Login
	vhost     string
	frameMax  int
	alarm     string // what the broker is blocked for; "" is nothing
	calm      chan struct{}
	exchanges map[string]State
	topics    map[string]*regexp.Regexp // of exchanges: the keys that may be written
	queues    map[string]State
	declared  []string
	changed   chan struct{} // closed, and replaced, with whatever Await may wait for
}

// Login is what a client gave for its user's.
type Login struct{ User, Password string }

// State is how an exchange or a queue answers.
type State int

// The states. What a test says nothing of is Usable: it exists, and takes everything.
const (
	Usable       State = iota
	Missing            // 404 for a passive declare and a publish; a declare makes it Usable
	Forbidden          // 403 for a declare and a publish; a passive declare is answered
	Inequivalent       // 406 for a declare
)

// Start runs a double until t ends. It takes guest's password guest, has the virtual host "/", and acknowledges whatever is
// published as soon as it has come.
func Start(t testing.TB) *Broker { return StartTLS(t, nil) }

// StartTLS is Start for amqps. A client that shows a certificate, where c asks for one, may log in by EXTERNAL, too.
func StartTLS(t testing.TB, c *tls.Config) *Broker {
	t.Helper()
	port, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		t:         t,
		addr:      fmt.Sprintf("127.0.0.1:%d", port),
		tls:       c,
		conns:     map[*conn]struct{}{},
		script:    (*Publish).Ack,
		login:     Login{"guest", "guest"},
		vhost:     "/",
		frameMax:  frameMax,
		exchanges: map[string]State{},
		topics:    map[string]*regexp.Regexp{},
		queues:    map[string]State{},
		changed:   make(chan struct{}),
	}
	b.Refuse(false)
	t.Cleanup(func() {
		b.Refuse(true)
		b.Reset()
		b.running.Wait()
	})
	return b
}

// Addr is the host:port where the double listens.
func (b *Broker) Addr() string { return b.addr }

// URL is Addr with the user, and the virtual host "/".
func (b *Broker) URL() string {
	scheme := "amqp"
	if b.tls != nil {
		scheme = "amqps"
	}
	return scheme + "://guest:guest@" + b.addr + "/"
}

// Refuse closes the listening socket, so that new connections are refused, or opens it again. Open connections stay.
func (b *Broker) Refuse(refuse bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if refuse == (b.listener == nil) {
		return
	}
	if refuse {
		b.listener.Close()
		b.listener = nil
		return
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		b.t.Error(err)
		return
	}
	b.listener = l
	b.running.Go(func() { b.accept(l) })
}

func (b *Broker) accept(l net.Listener) {
	for {
		socket, err := l.Accept()
		if err != nil {
			return
		}
		c := b.add(socket.(*net.TCPConn), l)
		if c == nil {
			socket.Close()
			continue
		}
		b.running.Go(c.write)
		b.running.Go(func() {
			c.serve()
			b.remove(c)
		})
	}
}

// add is nil where the listener was closed between the accept and now: the end of a test must not miss a connection.
func (b *Broker) add(socket *net.TCPConn, from net.Listener) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener != from {
		return nil
	}
	b.attempts++
	c := newConn(b, socket, b.attempts)
	b.conns[c] = struct{}{}
	b.tell()
	return c
}

func (b *Broker) remove(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	b.tell()
}

// tell wakes those in Await. b.mu is held.
func (b *Broker) tell() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Script has f decide what becomes of each message from now on; the connection reads on when f returns. An f that does
// nothing leaves the message unanswered, for the test to answer later. Scripts run one at a time.
func (b *Broker) Script(f func(*Publish)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = f
}

// arrived enters p and runs the script on it.
func (b *Broker) arrived(p *Publish) {
	b.scripting.Lock()
	defer b.scripting.Unlock()
	b.mu.Lock()
	b.published = append(b.published, p)
	p.N = len(b.published)
	script := b.script
	b.tell()
	b.mu.Unlock()
	script(p)
}

// Published is what has arrived so far, but for what the double refused by itself. The scripts on all of it have ended: what they
// noted may be read. No script may call it.
func (b *Broker) Published() []*Publish {
	b.scripting.Lock()
	defer b.scripting.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.published)
}

// AwaitPublished waits until n messages have arrived since the start, and returns them all.
func (b *Broker) AwaitPublished(n int) []*Publish {
	b.t.Helper()
	b.Await(fmt.Sprintf("%d messages have arrived", n), func() bool { return len(b.Published()) >= n })
	return b.Published()
}

// Await waits, a minute at most, until is: it asks at each message, connection, channel, login and declaration that comes, and at
// each connection that goes.
func (b *Broker) Await(what string, is func() bool) {
	b.t.Helper()
	enough := time.After(patience)
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-enough:
			b.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// Connections is how many are open and have got through the handshake.
func (b *Broker) Connections() int {
	n := 0
	for _, c := range b.open() {
		if c.established.Load() {
			n++
		}
	}
	return n
}

// Attempts is how many connections were accepted since the start.
func (b *Broker) Attempts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts
}

// Channels is how many channels were opened since the start.
func (b *Broker) Channels() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.channels
}

func (b *Broker) open() []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		all = append(all, c)
	}
	return all
}
