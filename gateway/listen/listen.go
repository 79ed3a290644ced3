// Package listen owns the listening sockets, keyed by address: it binds new ones before old ones close, and leaves kept ones
// alone. It does not know what is spoken on a connection.
package listen

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
)

// Set is the listening sockets in force.
type Set struct {
	// Handle gets each connection and the address it came to. It must not block.
	Handle func(address string, c net.Conn)
	Log    *slog.Logger

	accepting sync.WaitGroup // accept loops and sweeps

	// guarded by mu
	mu      sync.Mutex
	sockets map[string]*socket
	closing []*socket // whose sweep had not ended when last looked at
}

// Change is a new set of addresses whose sockets are bound, and not served yet.
type Change struct {
	set     *Set
	added   []*socket
	removed []string
}

// Unbound tells why addresses have no socket, or none that can be found.
type Unbound map[string]error

// Error gives one line an address.
func (u Unbound) Error() string {
	lines := make([]string, 0, len(u))
	for _, address := range slices.Sorted(maps.Keys(u)) {
		lines = append(lines, u[address].Error())
	}
	return strings.Join(lines, "\n")
}

// Prepare binds those of the canonical addresses wanted that are new. Its error is Unbound: every address that cannot be bound
// is told.
func (s *Set) Prepare(wanted []string) (*Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{set: s}
	unbound, stays := Unbound{}, map[string]bool{}
	for _, address := range wanted {
		stays[address] = true
		if s.sockets[address] != nil {
			continue
		}
		s.awaitClosed(address)
		sock, err := bind(address)
		if err != nil {
			unbound[address] = fmt.Errorf("cannot listen on %s: %w", address, s.explain(address, err))
			continue
		}
		c.added = append(c.added, sock)
	}
	for address := range s.sockets {
		if !stays[address] {
			c.removed = append(c.removed, address)
		}
	}
	if len(unbound) > 0 {
		c.Abort()
		return nil, unbound
	}
	return c, nil
}

// Abort closes what Prepare bound.
func (c *Change) Abort() {
	for _, sock := range c.added {
		sock.Close()
	}
}

// Commit serves the new sockets, and takes those that are no longer wanted out of service: nobody new gets in there, and they
// close once nobody waits.
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
	var gone []*socket
	for _, address := range c.removed {
		gone = append(gone, s.sockets[address])
		delete(s.sockets, address)
	}
	s.retire(gone)
}

// Mend makes the sockets again whose files somebody removed; who is connected stays so. It returns their addresses, and of the other
// addresses that nobody can find any more why.
func (s *Set) Mend() (mended []string, lost Unbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost = Unbound{}
	var gone []*socket
	for address, sock := range s.sockets {
		again, err := sock.again()
		switch {
		case err != nil:
			lost[address] = fmt.Errorf("nobody can connect to %s: %w", address, err)
		case again != nil:
			s.sockets[address] = again
			s.accepting.Go(func() { s.accept(again) })
			mended, gone = append(mended, address), append(gone, sock)
		}
	}
	s.retire(gone)
	return mended, lost
}

// Close retires every socket and returns when the last of them is closed.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire(slices.Collect(maps.Values(s.sockets)))
	clear(s.sockets)
	s.accepting.Wait()
}

// retire lets nobody new in at these sockets, and has them swept and closed; it does not wait for that. The caller holds mu.
func (s *Set) retire(socks []*socket) {
	if len(socks) == 0 {
		return
	}
	for _, sock := range socks {
		sock.wake()
	}
	s.closing = append(s.closing, socks...)
	s.accepting.Go(func() { s.sweep(socks) })
}

// awaitClosed returns when no socket that is being swept stands in the way of address. The caller holds mu.
func (s *Set) awaitClosed(address string) {
	var still []*socket
	for _, sock := range s.closing {
		if sock.address == address || overlap(sock.address, address) {
			<-sock.closed
		}
		select {
		case <-sock.closed:
		default:
			still = append(still, sock)
		}
	}
	s.closing = still
}

// Addresses returns what each address in force is bound to, which tells the port where the address says 0.
func (s *Set) Addresses() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := make(map[string]string, len(s.sockets))
	for address, sock := range s.sockets {
		bound[address] = sock.bound()
	}
	return bound
}
