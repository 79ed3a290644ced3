package listen

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// mute is a client that hears nothing of what it is sent, and so stays half-way in its handshake until it is unmuted.
type mute struct {
	fd int // a second one of its socket

	connected chan error
	conn      net.Conn
}

func dialMute(t *testing.T, addr string) *mute {
	t.Helper()
	m := &mute{connected: make(chan error, 1)}
	muted := make(chan struct{})
	d := net.Dialer{Timeout: time.Minute, Control: func(_, _ string, raw syscall.RawConn) error {
		defer close(muted)
		return raw.Control(func(fd uintptr) {
			drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
			if err := unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}); err != nil {
				t.Error(err)
			}
			own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
			}
			m.fd = own
		})
	}}
	go func() {
		c, err := d.Dial("tcp", addr)
		m.conn = c
		m.connected <- err
	}()
	<-muted
	t.Cleanup(func() { unix.Close(m.fd) })
	return m
}

func (m *mute) unmute(t *testing.T) {
	t.Helper()
	if err := unix.SetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
		t.Fatal(err)
	}
}

// awaitHalfOpen returns when a handshake is under way at this local address, as the kernel tells it.
func awaitHalfOpen(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		inside, err := halfOpen([]byte{unix.AF_INET, unix.AF_INET6})
		if err != nil {
			t.Skip("the kernel does not tell of handshakes here: ", err)
		}
		if inside[netip.MustParseAddrPort(address)] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no handshake is under way at %s: %v", address, inside)
		}
	}
}

func TestASweepWaitsForTheClientsOfItsOwnAddressAlone(t *testing.T) {
	for _, c := range []struct {
		host string // of the socket
		dial string
		want map[string]bool // whether one half-way in there is its own
	}{
		{"127.0.0.1", "127.0.0.1", map[string]bool{"127.0.0.1": true, "127.0.0.2": false, "::1": false}},
		{"0.0.0.0", "127.0.0.2", map[string]bool{"127.0.0.1": true, "127.0.0.2": true, "::1": false}},
		{"[::1]", "[::1]", map[string]bool{"127.0.0.1": false, "::1": true}},
		{"[::]", "[::1]", map[string]bool{"127.0.0.1": false, "::1": true}},
		{"", "127.0.0.3", map[string]bool{"127.0.0.1": true, "127.0.0.3": true, "::1": true}},
		{"", "[::1]", map[string]bool{"127.0.0.1": true, "::1": true}},
	} {
		p := uint16(port(t))
		sock, err := bind(fmt.Sprintf("%s:%d", c.host, p))
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range c.want {
			for at, want := range map[uint16]bool{p: want, p + 1: false} {
				local := netip.AddrPortFrom(netip.MustParseAddr(host), at)
				if got := sock.anyOf(map[netip.AddrPort]bool{local: true}); got != want {
					t.Errorf("%s, a client at %s: %v", sock.address, local, got)
				}
			}
		}
		at := fmt.Sprintf("%s:%d", c.dial, p)
		m := dialMute(t, at)
		awaitHalfOpen(t, at)
		if inside, err := halfOpen(families([]*socket{sock})); err != nil || !sock.anyOf(inside) {
			t.Errorf("%s: the client at %s is not seen: %v, %v", sock.address, at, inside, err)
		}
		sock.Close()
		m.unmute(t) // and is refused
	}
}

func TestAClientHalfWayInAtAKeptAddressHoldsUpNoOtherOfTheSamePort(t *testing.T) {
	p := port(t)
	kept, goes := fmt.Sprintf("127.0.0.1:%d", p), fmt.Sprintf("127.0.0.2:%d", p)
	s := echo(t)
	apply(t, s, kept, goes)
	m := dialMute(t, kept)
	awaitHalfOpen(t, kept)
	sock := s.sockets[goes]
	apply(t, s, kept)
	<-sock.closed
	if sock.looks < sweepLooks {
		t.Errorf("it was closed by the clock, after %d looks", sock.looks)
	}
	m.unmute(t)
	if err := <-m.connected; err != nil {
		t.Error(err)
	}
	m.conn.Close()
}

func TestAClientHalfWayThroughItsHandshakeIsWaitedForAndHoldsUpNobodyWhoWantsItsAddressAgain(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		for _, afterwards := range []bool{false, true} {
			address := fmt.Sprintf("%s:%d", host, port(t))
			s := echo(t)
			apply(t, s, address)
			m := dialMute(t, address)
			awaitHalfOpen(t, address)
			before := s.sockets[address]
			apply(t, s) // returns, though the socket is not closed
			if afterwards {
				m.unmute(t)
				<-before.closed
			}
			apply(t, s, address)
			if got := s.sockets[address].listener != before.listener; got != afterwards {
				t.Errorf("%s wanted again: a new socket %v, want %v", address, got, afterwards)
			}
			if !afterwards {
				if got, err := answer(address); got != address {
					t.Errorf("the address taken back answers %q, %v", got, err)
				}
				m.unmute(t)
			}
			if err := <-m.connected; err != nil {
				t.Fatal(err)
			}
			m.conn.SetDeadline(time.Now().Add(time.Minute))
			b := make([]byte, 100)
			if n, err := m.conn.Read(b); string(b[:n]) != address {
				t.Errorf("it reads %q, %v", b[:n], err)
			}
			m.conn.Close()
			if got, err := answer(address); got != address {
				t.Errorf("the address taken again answers %q, %v", got, err)
			}
			s.Close()
			if _, err := answer(address); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("closed at last, it answers %v", err)
			}
		}
	}
}

func TestASocketHeldForAReloadInVainIsDeafAgainAndCloses(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	s := echo(t)
	apply(t, s, address)
	m := dialMute(t, address)
	awaitHalfOpen(t, address)
	before := s.sockets[address]
	apply(t, s)
	if _, err := s.Prepare([]string{address, taken.Addr().String()}); err == nil {
		t.Fatal("prepared")
	}
	if state := before.state.Load(); state != swept && state != gone {
		t.Errorf("state %d", state)
	}
	m.unmute(t)
	<-before.closed
	if _, err := answer(address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it answers %v", err)
	}
	apply(t, s, address)
	if got, err := answer(address); got != address {
		t.Errorf("taken again it answers %q, %v", got, err)
	}
	<-m.connected
}

func TestTheAddressesAreToldWhileAReloadWaitsForASocketToClose(t *testing.T) {
	p := port(t)
	synctest.Test(t, func(t *testing.T) {
		closing := newSocket(fmt.Sprintf("127.0.0.1:%d", p), nil)
		s := &Set{Log: slog.New(slog.DiscardHandler), closing: []*socket{closing}}
		prepared := false
		go func() {
			c, err := s.Prepare([]string{fmt.Sprintf("0.0.0.0:%d", p)})
			if err != nil {
				t.Error(err)
				return
			}
			c.Abort()
			prepared = true
		}()
		synctest.Wait()
		if prepared {
			t.Fatal("it does not wait")
		}
		if !s.mu.TryLock() {
			t.Error("who asks waits too")
		} else {
			s.mu.Unlock()
		}
		close(closing.closed)
		synctest.Wait()
		if !prepared {
			t.Error("it does not go on")
		}
	})
}

func TestAUnixSocketThatClosesServesWhatItsQueueHolds(t *testing.T) {
	release := make(chan struct{})
	s := &Set{Log: echo(t).Log, Handle: func(_ string, c net.Conn) {
		<-release
		fmt.Fprint(c, "served")
		c.Close()
	}}
	path := t.TempDir() + "/s"
	apply(t, s, "unix:"+path)
	var clients []net.Conn
	for range 20 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	var closing sync.WaitGroup
	closing.Go(s.Close)
	close(release)
	for i, c := range clients {
		c.SetDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 10)
		if n, err := c.Read(b); string(b[:n]) != "served" {
			t.Errorf("client %d of 20 read %q, %v", i, b[:n], err)
		}
		c.Close()
	}
	closing.Wait()
}

func TestSocketsThatCloseUnderAStormOfClientsResetNobody(t *testing.T) {
	s := &Set{Log: slog.New(slog.DiscardHandler), Handle: func(_ string, c net.Conn) {
		go func() {
			fmt.Fprint(c, "served")
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}()
	}}
	var addresses []string
	for range 10 {
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", port(t)))
	}
	var clients sync.WaitGroup
	var served atomic.Int64
	stop := make(chan struct{})
	for i := range 16 {
		clients.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				got, err := answer(addresses[(i+k)%len(addresses)])
				switch {
				case err == nil && got == "served":
					served.Add(1)
				case !errors.Is(err, syscall.ECONNREFUSED):
					t.Errorf("client %d, visit %d: %q, %v", i, k, got, err)
					return
				}
			}
		})
	}
	for range 8 {
		before := served.Load()
		apply(t, s, addresses...)
		for deadline := time.Now().Add(time.Minute); served.Load() < before+20; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nobody is served")
			}
		}
		apply(t, s)
	}
	close(stop)
	clients.Wait()
	s.Close()
}
