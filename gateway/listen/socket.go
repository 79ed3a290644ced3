package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// unixMode is whom a listener's Unix socket lets in: the daemon's user and group.
const unixMode = 0o660

// socket is one address and its accept loop.
type socket struct {
	listener
	address string
	closing chan struct{} // closed when it is to close
	left    chan struct{} // closed when its accept loop has ended
	closed  chan struct{} // closed with the socket, or when it was taken back
	state   atomic.Int32  // once it is to close: swept, held, returned or gone
	looks   int           // of its sweep, in a row, that found nobody half-way in
}

// The states of a socket that is to close.
const (
	swept    int32 = iota
	held           // by a Change: its sweep leaves it alone
	returned       // to service, as another *socket: its sweep is over
	gone           // it is closed
)

// listener is a *net.TCPListener or a *UnixSocket.
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// bind listens on a canonical address: 0.0.0.0:25 is IPv4, [::]:25 is IPv6, :25 both, unix:/path a Unix socket.
func bind(address string) (*socket, error) {
	l, err := open(address)
	if err != nil {
		return nil, err
	}
	return newSocket(address, l), nil
}

func newSocket(address string, l listener) *socket {
	return &socket{listener: l, address: address, closing: make(chan struct{}), left: make(chan struct{}), closed: make(chan struct{})}
}

func open(address string) (listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return Unix(path, unixMode)
	}
	network := "tcp"
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		network = "tcp4"
		if ip := net.ParseIP(host); ip == nil || ip.To4() == nil {
			network = "tcp6"
		}
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // such a socket takes no filter, and could not be made deaf
	l, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// explain says in the operator's words why an address cannot be bound, and what to do.
func (s *Set) explain(address string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "another program listens there: stop it, or choose another port"
		for own := range s.sockets {
			if overlap(own, address) {
				remedy = "this process listens on " + own + " until the new address is bound: take another port, reload, and then this one"
			}
		}
	case strings.HasPrefix(address, "unix:"):
		return err
	case errors.Is(err, os.ErrPermission):
		remedy = "ports below 1024 need CAP_NET_BIND_SERVICE or root"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "this machine does not have that address"
	default:
		return err
	}
	var errno syscall.Errno // the system's own words, without the call and the address that net puts before them
	errors.As(err, &errno)
	return fmt.Errorf("%w (%s)", errno, remedy)
}

// isWildcard tells whether a canonical address is every address of a port.
func isWildcard(address string) bool {
	return strings.HasPrefix(address, ":") || strings.HasPrefix(address, "0.0.0.0:") || strings.HasPrefix(address, "[::]:")
}

// overlap tells whether one of two canonical addresses is a wildcard that covers the other.
func overlap(a, b string) bool {
	if !isWildcard(a) && !isWildcard(b) {
		return false
	}
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	if hostA == "" || hostB == "" {
		return true
	}
	ipA, _ := netip.ParseAddr(hostA)
	ipB, _ := netip.ParseAddr(hostB)
	return ipA.Is4() == ipB.Is4() && (ipA.IsUnspecified() || ipB.IsUnspecified())
}

// bound is the address in use.
func (sock *socket) bound() string {
	if addr, ok := sock.Addr().(*net.TCPAddr); ok {
		return addr.String()
	}
	return sock.address
}

// again returns a socket in place of one whose file is gone; nil where nothing is.
func (sock *socket) again() (*socket, error) {
	u, ok := sock.listener.(*UnixSocket)
	if !ok {
		return nil, nil
	}
	gone, err := u.Gone()
	if err != nil || !gone {
		return nil, err
	}
	return bind(sock.address)
}

// wake tells the accept loop to end, and lets nobody new in. Nobody finds the path of a Unix socket any more.
func (sock *socket) wake() {
	if u, ok := sock.listener.(*UnixSocket); ok {
		u.unlink()
	}
	close(sock.closing)
	sock.SetDeadline(time.Unix(1, 0))
	sock.deafen()
}

// isClosed tells whether it stands in nobody's way any more.
func (sock *socket) isClosed() bool {
	select {
	case <-sock.closed:
		return true
	default:
		return false
	}
}

// accept takes connections until the socket is to close. It outlives a want of descriptors.
func (s *Set) accept(sock *socket) {
	defer close(sock.left)
	pause, told := time.Duration(0), time.Time{}
	for {
		c, err := sock.Accept()
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
		if time.Since(told) > time.Minute { // not each time that a single descriptor was free for a moment
			told = time.Now()
			s.Log.Error("cannot accept connections, trying on", "address", sock.address, "error", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-sock.closing:
		}
	}
}
