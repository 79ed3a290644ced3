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

// Set is the listening sockets in force. One caller at a time changes it, from Prepare to Commit or Abort, with Mend or with Close;
// Addresses and Unreachable wait for none of them.
type Set struct {
	// Handle gets each connection and the address it came to. It must not block.
	Handle func(address string, c net.Conn)
	Log    *slog.Logger

	accepting sync.WaitGroup // accept loops and sweeps

	// owned by the caller who changes the Set
	closing []*socket // whose sweep had not ended when last looked at

	// guarded by mu, for writing: only he who changes the Set writes, and he reads without
	mu      sync.Mutex
	sockets map[string]*socket
}

// Change is a new set of addresses whose sockets are bound, and not served yet.
type Change struct {
	set     *Set
	added   []*socket
	held    []*socket // of a removal just before, not swept to the end: taken back into service
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
	c := &Change{set: s}
	s.closing = slices.DeleteFunc(s.closing, (*socket).isClosed)
	unbound, stays := Unbound{}, map[string]bool{}
	for _, address := range wanted {
		stays[address] = true
		if s.sockets[address] != nil {
			continue
		}
		if sock := s.hold(address); sock != nil {
			c.held = append(c.held, sock)
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

// Abort closes what Prepare bound, and has what it held swept on.
func (c *Change) Abort() {
	for _, sock := range c.held {
		sock.deafen()
		sock.state.Store(swept)
	}
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
	for _, sock := range c.held {
		c.added = append(c.added, newSocket(sock.address, sock.listener))
		sock.state.Store(returned)
		close(sock.closed)
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
	lost = Unbound{}
	var gone []*socket
	for address, sock := range s.sockets {
		again, err := sock.again()
		switch {
		case err != nil:
			lost[address] = unreachable(address, err)
		case again != nil:
			s.mu.Lock()
			s.sockets[address] = again
			s.mu.Unlock()
			s.accepting.Go(func() { s.accept(again) })
			mended, gone = append(mended, address), append(gone, sock)
		}
	}
	s.retire(gone)
	return mended, lost
}

// Close retires every socket and returns when the last of them is closed.
func (s *Set) Close() {
	s.retire(slices.Collect(maps.Values(s.sockets)))
	s.mu.Lock()
	clear(s.sockets)
	s.mu.Unlock()
	s.accepting.Wait()
}

// retire lets nobody new in at these sockets, and has them swept and closed; it does not wait for that.
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

// hold returns the TCP socket of address that is being swept, which now hears again and is left alone by its sweep until it is taken
// back or given up; nil where there is none. So one client half-way in holds up nobody who wants the address again.
func (s *Set) hold(address string) *socket {
	for _, sock := range s.closing {
		if sock.address != address || sock.port() == 0 {
			continue
		}
		<-sock.left
		if !sock.state.CompareAndSwap(swept, held) {
			continue
		}
		if sock.hear() == nil {
			return sock
		}
		sock.state.Store(swept)
	}
	return nil
}

// awaitClosed returns when no socket that is being swept stands in the way of address.
func (s *Set) awaitClosed(address string) {
	for _, sock := range s.closing {
		if sock.address == address || overlap(sock.address, address) {
			<-sock.closed
		}
	}
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

// Unreachable looks for the files of the Unix sockets in force, and returns why those cannot be found that nobody finds now.
func (s *Set) Unreachable() Unbound {
	s.mu.Lock()
	socks := slices.Collect(maps.Values(s.sockets))
	s.mu.Unlock()
	lost := Unbound{}
	for _, sock := range socks {
		if u, ok := sock.listener.(*UnixSocket); ok {
			if err := u.Lost(); err != nil {
				lost[sock.address] = unreachable(sock.address, err)
			}
		}
	}
	return lost
}

func unreachable(address string, err error) error {
	return fmt.Errorf("nobody can connect to %s: %w", address, err)
}
