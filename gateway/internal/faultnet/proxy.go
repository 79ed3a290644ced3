// Package faultnet is the network as tests need it: ports that stay one's own, and a TCP proxy that resets, freezes, slows,
// delays and refuses on demand. It does not know what the octets mean.
package faultnet

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// dialTimeout is how long a target may take to answer; it is on this machine.
const dialTimeout = 5 * time.Second

// reservations holds the sockets behind Port, by port.
var reservations sync.Map

// Proxy forwards TCP connections to one target, as well or as badly as it is told. Its methods may be called at any time
// and by anybody, and take effect at once on connections that are open.
type Proxy struct {
	addr, target string
	running      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	links    map[*link]struct{}
	thawed   chan struct{} // closed while octets may pass
	rate     int           // octets a second in each direction of each connection; 0 is no limit
	latency  time.Duration // of each direction
}

// NewProxy listens on a port of 127.0.0.1 that nobody else gets and forwards to target (host:port) until Close.
func NewProxy(target string) (*Proxy, error) {
	port, err := Port()
	if err != nil {
		return nil, err
	}
	p := &Proxy{addr: fmt.Sprintf("127.0.0.1:%d", port), target: target, links: map[*link]struct{}{}, thawed: make(chan struct{})}
	close(p.thawed)
	if err := p.Refuse(false); err != nil {
		return nil, err
	}
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.addr }

// Refuse closes the listening socket, so that new connections are refused, or opens it again. Open connections stay.
func (p *Proxy) Refuse(refuse bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if refuse == (p.listener == nil) {
		return nil
	}
	if refuse {
		err := p.listener.Close()
		p.listener = nil
		return err
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

// Cut resets every open connection, at both ends.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Freeze holds back every octet and every close, in both directions, without closing anything: a cable pulled out.
// New connections are accepted and stay silent.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.thawed:
		p.thawed = make(chan struct{})
	default:
	}
}

// Thaw ends Freeze: what was held back goes on.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.thawed:
	default:
		close(p.thawed)
	}
}

// Slow lets each direction of each connection carry rate octets a second; 0 is no limit.
func (p *Proxy) Slow(rate int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// Delay makes octets arrive d later than they were sent, in each direction; it does not limit the rate much (4 MiB are
// under way at most).
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Open is how many connections are open through p.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close refuses, cuts, and waits until nothing of p runs any more.
func (p *Proxy) Close() error {
	err := p.Refuse(true)
	p.Cut()
	p.running.Wait()
	return err
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(c.(*net.TCPConn), l) })
	}
}

// serve carries one connection to the target. A target that cannot be reached is told to the client by a reset.
func (p *Proxy) serve(client *net.TCPConn, from net.Listener) {
	l := &link{client: client, cut: make(chan struct{})}
	if !p.add(l, from) {
		l.reset()
		return
	}
	defer p.remove(l)
	if !p.wait(l) {
		return
	}
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		l.reset()
		return
	}
	if !l.join(server.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.carry(l, l.client, l.server) })
	both.Go(func() { p.carry(l, l.server, l.client) })
	both.Wait()
	l.close()
}

// add is false where the listener was closed between the accept and now: Close must not miss a connection.
func (p *Proxy) add(l *link, from net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != from {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// wait returns true when octets may pass, false when l was cut before.
func (p *Proxy) wait(l *link) bool {
	p.mu.Lock()
	thawed := p.thawed
	p.mu.Unlock()
	select {
	case <-l.cut:
		return false
	case <-thawed:
		return true
	}
}

func (p *Proxy) weather() (rate int, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate, p.latency
}
