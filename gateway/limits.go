package gateway

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"lsmtpd/gateway/smtp"
	"lsmtpd/routes/config"
)

const (
	// mostClients is how many clients are remembered for their rate alone: a flood of addresses shall not cost more.
	mostClients = 1 << 16
	// How many sessions may be there that are not let in, and are told why. Whoever comes then is cut off without a word; but a
	// listener's flood shall not cost another's clients, nor a client's another's.
	mostOutside         = 512
	mostOutsideListener = 128
	mostOutsideClient   = 16
)

// limits counts who is connected, and how often each client comes. What it is asked about is measured against the listener of
// that moment, so that every limit is in force at once. The zero value is ready.
type limits struct {
	// guarded by mu, as are state.open and state.outside
	mu      sync.Mutex
	open    int              // sessions that were let in
	owed    int              // sessions whose proxy has not told yet whom it speaks for
	outside int              // sessions that were not let in
	around  map[clientOf]int // of those, by client
	clients map[clientOf]*client
	sweep   int // clients at which those with nothing to remember go
}

// clientOf is a client of a listener: an IPv4 address, or the 64 bits that one customer of an IPv6 network has. Without an
// address, on a Unix socket, it is everybody there, whom no limit of a client binds.
type clientOf struct {
	state   *state
	network netip.Addr
}

// client is what is remembered of one. It is forgotten when it has no session and its buckets are full.
type client struct {
	open                  int
	connections, messages bucket
}

func (s *state) client(ip netip.Addr) clientOf {
	ip = ip.Unmap()
	if ip.Is6() {
		p, _ := ip.WithZone("").Prefix(64)
		ip = p.Addr()
	}
	return clientOf{s, ip}
}

// idle tells whether there is nothing to remember.
func (c *client) idle(now time.Time) bool {
	return c.open == 0 && c.connections.full(now) && c.messages.full(now)
}

// crowd is why somebody is not let in.
type crowd int

const (
	nobody  crowd = iota // he is let in
	crowded              // too many are here
	hasty                // he comes too often
)

// await tells whether there is room for one more connection of a proxy that owes its header: proxies are few and known, so that
// only limits.connections bounds them.
func (x *limits) await(most int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if reached(x.open+x.owed, most) {
		return false
	}
	x.owed++
	return true
}

// told undoes what await counted.
func (x *limits) told() {
	x.mu.Lock()
	x.owed--
	x.mu.Unlock()
}

// arrive tells whether there is room for one more who is not let in. A listener that has nobody outside always has it.
func (x *limits) arrive(who clientOf) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.outside >= mostOutside && who.state.outside > 0,
		who.state.outside >= mostOutsideListener,
		who.network.IsValid() && x.around[who] >= mostOutsideClient:
		return false
	}
	if x.around == nil {
		x.around = map[clientOf]int{}
	}
	x.outside++
	who.state.outside++
	x.around[who]++
	return true
}

// depart undoes what arrive counted.
func (x *limits) depart(who clientOf) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.outside--
	who.state.outside--
	if x.around[who]--; x.around[who] == 0 {
		delete(x.around, who)
	}
}

// enter lets a client of l in, or tells why not. most is limits.connections, 0 for no limit.
func (x *limits) enter(l *listener, most int, who clientOf, now time.Time) crowd {
	x.mu.Lock()
	defer x.mu.Unlock()
	if reached(x.open, most) || reached(l.state.open, l.MaxConnections) {
		return crowded
	}
	if who.network.IsValid() {
		c := x.find(who, now)
		switch {
		case reached(c.open, l.MaxConnectionsPerClient):
			return crowded
		case l.Rate != nil && !c.connections.take(l.Rate, l.Rate.Connections, now):
			return hasty
		}
		c.open++
	}
	x.open++
	l.state.open++
	return nobody
}

// leave undoes what enter counted.
func (x *limits) leave(who clientOf, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open--
	who.state.open--
	if c := x.clients[who]; c != nil {
		if c.open--; c.idle(now) {
			delete(x.clients, who)
		}
	}
}

// message tells whether a client of l may send one more message now.
func (x *limits) message(l *listener, who clientOf, now time.Time) bool {
	if l.Rate == nil || !who.network.IsValid() {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.find(who, now).messages.take(l.Rate, l.Rate.Messages, now)
}

// connections returns how many sessions are let in.
func (x *limits) connections() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open
}

// find returns what is remembered of a client. The caller holds mu.
func (x *limits) find(who clientOf, now time.Time) *client {
	c := x.clients[who]
	if c == nil {
		if x.clients == nil {
			x.clients, x.sweep = map[clientOf]*client{}, mostClients
		}
		if len(x.clients) >= x.sweep {
			x.forget(now)
		}
		c = &client{}
		x.clients[who] = c
	}
	return c
}

// forget makes room for a quarter of mostClients: clients whose buckets are full go, and where they are not enough any that
// have no session. Who would gain by that has as many addresses, and so as many buckets, anyway. The caller holds mu.
func (x *limits) forget(now time.Time) {
	for who, c := range x.clients {
		if c.idle(now) {
			delete(x.clients, who)
		}
	}
	for who, c := range x.clients {
		if len(x.clients) <= mostClients/4*3 {
			break
		}
		if c.open == 0 {
			delete(x.clients, who)
		}
	}
	x.sweep = max(mostClients, len(x.clients)*5/4)
}

// reached tells whether n is at a limit; 0 is none.
func reached(n, limit int) bool { return limit > 0 && n >= limit }

// bucket is a token bucket, written as the moment at which it is full again, in nanoseconds of the Unix epoch: 0 is a full one.
// So it needs nothing but a rate to be read with, and the rate may change.
type bucket int64

// take takes a token from a bucket that gets n in each r.Per (0: no limit). It is false where there is none.
func (b *bucket) take(r *config.Rate, n int, now time.Time) bool {
	if n == 0 {
		return true
	}
	burst := r.Burst
	if burst == 0 {
		burst = n
	}
	each := float64(r.Per) / float64(n)
	at := now.UnixNano()
	room := int64(math.Min(each*float64(burst), math.MaxInt64/2)) // how long it takes to fill when it is empty
	missing := min(max(int64(*b)-at, 0), room)                    // more was missing where the rate was another
	enough := missing+int64(each) <= room
	if enough {
		missing += max(int64(each), 1)
	}
	*b = bucket(at + missing)
	return enough
}

// full tells whether nothing is missing.
func (b bucket) full(now time.Time) bool { return int64(b) <= now.UnixNano() }

// enter counts the session in, or refuses it.
func (s *session) enter(c *smtp.Client) smtp.Reply {
	who := s.listener.state.client(c.Addr.Addr())
	switch s.gateway.limits.enter(s.listener, s.gateway.running.Load().most, who, time.Now()) {
	case crowded:
		return replyCrowded
	case hasty:
		return replyHasty
	}
	s.visit = who
	return smtp.Reply{}
}

// leave counts the session out.
func (s *session) leave() {
	if s.visit.state != nil {
		s.gateway.limits.leave(s.visit, time.Now())
	}
	if s.outside.state != nil {
		s.gateway.limits.depart(s.outside)
	}
}

// stayOutside counts the session among those that are not let in. Where they are too many it cuts it off, and is false: to tell all
// of them why would cost those who are let in.
func (s *session) stayOutside(c *smtp.Client) bool {
	who := s.listener.state.client(c.Addr.Addr())
	if s.gateway.limits.arrive(who) {
		s.outside = who
		return true
	}
	s.cutOff("cut off: too many clients that are not let in")
	return false
}

// cutOff closes the connection without a word to the client.
func (s *session) cutOff(why string) {
	s.broken = io.EOF
	s.conn.Close()
	s.listener.state.refused.Add(1)
	log := s.gateway.log.With("listener", s.listener.Name)
	if s.listener.state.refusals.admit(log) {
		log.Info(why)
	}
}

// others is how many descriptors the process may need for all but sessions: sockets, the spool's files, the broker, the
// operator's commands, and the sessions that are not let in.
const others = 256 + mostOutside

// affordable is how many connections limits.connections allows, as far as RLIMIT_NOFILE leaves descriptors for them; where that
// is fewer than configured, a warning says so.
func affordable(c *config.Config) (most int, warning string) {
	most = c.Limits.Connections
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		return most, ""
	}
	left := max(int(files.Cur)-others-len(c.Listeners), 1)
	switch {
	case most == 0:
		return left, ""
	case most <= left:
		return most, ""
	}
	return left, c.Fault("limits.connections", fmt.Sprintf("%d are too many for %d descriptors (ulimit -n, LimitNOFILE=): no more than %d are taken",
		most, files.Cur, left)).String()
}
