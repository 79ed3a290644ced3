package faultnet

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkSize    = 16 << 10
	chunksOnWay  = 256
	slowestChunk = 50 * time.Millisecond // a slow connection trickles in pieces of about this long
)

// link is one connection through the proxy.
type link struct {
	client *net.TCPConn
	cut    chan struct{} // closed by reset and close

	mu     sync.Mutex // guards what follows
	server *net.TCPConn
	isCut  bool
}

// join adds the connection to the target; false: l was cut meanwhile.
func (l *link) join(server *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isCut {
		_ = server.Close()
		return false
	}
	l.server = server
	return true
}

// reset closes both ends with RST where they are not closed yet.
func (l *link) reset() { l.end(0) }

// close closes both ends in good order: what was written still arrives.
func (l *link) close() { l.end(-1) }

func (l *link) end(linger int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isCut {
		return
	}
	l.isCut = true
	close(l.cut)
	for _, c := range []*net.TCPConn{l.client, l.server} {
		if c != nil {
			_ = c.SetLinger(linger)
			_ = c.Close()
		}
	}
}

// chunk is what was read at once, and when.
type chunk struct {
	octets []byte
	at     time.Time
}

// carry moves octets from one end to the other until from ends: in good order, which is passed on as a half close, or
// badly, which resets the link.
func (p *Proxy) carry(l *link, from, to *net.TCPConn) {
	way := make(chan chunk, chunksOnWay)
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() { p.read(l, from, way) })
	for c := range way {
		_, latency := p.weather()
		if !l.sleep(time.Until(c.at.Add(latency))) || !p.write(l, to, c.octets) {
			l.reset()
			return
		}
	}
	if p.wait(l) {
		_ = to.CloseWrite()
	}
}

// read closes way at the end of from, and resets l if that end was not in good order.
func (p *Proxy) read(l *link, from *net.TCPConn, way chan<- chunk) {
	defer close(way)
	for p.wait(l) {
		b := make([]byte, chunkSize)
		n, err := from.Read(b)
		if n > 0 {
			select {
			case way <- chunk{b[:n], time.Now()}:
			case <-l.cut:
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			if p.wait(l) {
				l.reset()
			}
			return
		}
	}
}

// write sends b at the rate of the moment. It is false when l cannot go on.
func (p *Proxy) write(l *link, to *net.TCPConn, b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if rate, _ := p.weather(); rate > 0 {
			n = min(n, max(1, int(float64(rate)*slowestChunk.Seconds())))
			if !l.sleep(time.Duration(float64(n) / float64(rate) * float64(time.Second))) {
				return false
			}
		}
		if !p.wait(l) {
			return false
		}
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

// sleep is false when l was cut before d was over.
func (l *link) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.cut:
		return false
	case <-t.C:
		return true
	}
}
