// Package listen owns the listening sockets, keyed by address: it binds new ones before old ones close, and leaves kept ones
// alone. It does not know what is spoken on a connection.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// sweepTime is how long a socket that closes goes on taking what its accept queue holds.
const sweepTime = 50 * time.Millisecond

// Set is the listening sockets in force.
type Set struct {
	// Handle gets each connection and the address it came to. It must not block.
	Handle func(address string, c net.Conn)
	Log    *slog.Logger

	accepting sync.WaitGroup

	// guarded by mu
	mu      sync.Mutex
	sockets map[string]*socket
}

// socket is one address and its accept loop.
type socket struct {
	address string
	tcp     *net.TCPListener
	closing chan struct{}
}

// Change is a new set of addresses whose sockets are bound, and not served yet.
type Change struct {
	set     *Set
	added   []*socket
	removed []string
}

// Prepare binds the addresses that are new. wanted maps each canonical address to the listener's name, for the errors: every
// address that cannot be bound is told.
func (s *Set) Prepare(wanted map[string]string) (*Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{set: s}
	var faults []error
	for address, name := range wanted {
		if s.sockets[address] != nil {
			continue
		}
		sock, err := bind(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("listener %q: %w", name, explain(address, err)))
			continue
		}
		c.added = append(c.added, sock)
	}
	for address := range s.sockets {
		if _, stays := wanted[address]; !stays {
			c.removed = append(c.removed, address)
		}
	}
	if len(faults) > 0 {
		c.Abort()
		return nil, errors.Join(faults...)
	}
	return c, nil
}

// bind listens on a canonical address: 0.0.0.0:25 is IPv4, [::]:25 is IPv6, :25 both.
func bind(address string) (*socket, error) {
	network := "tcp"
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		network = "tcp4"
		if ip := net.ParseIP(host); ip == nil || ip.To4() == nil {
			network = "tcp6"
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return &socket{address: address, tcp: l.(*net.TCPListener), closing: make(chan struct{})}, nil
}

// explain says in the operator's words why an address cannot be bound, and what to do.
func explain(address string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "another program listens there: stop it, or choose another port"
	case errors.Is(err, os.ErrPermission):
		remedy = "ports below 1024 need CAP_NET_BIND_SERVICE or root"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "this machine does not have that address"
	default:
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	var errno syscall.Errno // the system's own words, without the call and the address that net puts before them
	errors.As(err, &errno)
	return fmt.Errorf("cannot listen on %s: %w (%s)", address, errno, remedy)
}

// Abort closes what Prepare bound.
func (c *Change) Abort() {
	for _, sock := range c.added {
		sock.tcp.Close()
	}
}

// Commit serves the new sockets and retires those that are no longer wanted.
func (c *Change) Commit() {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		s.sockets = map[string]*socket{}
	}
	for _, sock := range c.added {
		s.sockets[sock.address] = sock
		s.accepting.Go(func() { s.accept(sock) })
	}
	for _, address := range c.removed {
		s.sockets[address].retire()
		delete(s.sockets, address)
	}
}

// Close retires every socket and returns when the last accept loop has ended.
func (s *Set) Close() {
	s.mu.Lock()
	for address, sock := range s.sockets {
		sock.retire()
		delete(s.sockets, address)
	}
	s.mu.Unlock()
	s.accepting.Wait()
}

// Addresses returns what each address in force is bound to, which tells the port where the address says 0.
func (s *Set) Addresses() map[string]net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := make(map[string]net.Addr, len(s.sockets))
	for address, sock := range s.sockets {
		bound[address] = sock.tcp.Addr()
	}
	return bound
}

// retire lets the accept loop take what the kernel has queued already, and then close.
func (sock *socket) retire() {
	close(sock.closing)
	sock.tcp.SetDeadline(time.Now().Add(sweepTime))
}

// accept takes connections until the socket retires. It outlives a want of descriptors.
func (s *Set) accept(sock *socket) {
	defer sock.tcp.Close()
	pause := time.Duration(0)
	for {
		c, err := sock.tcp.Accept()
		if err == nil {
			pause = 0
			s.Handle(sock.address, c)
			continue
		}
		select {
		case <-sock.closing:
			return
		default:
		}
		if pause == 0 {
			s.Log.Error("cannot accept connections, trying on", "address", sock.address, "error", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-sock.closing:
		}
	}
}
