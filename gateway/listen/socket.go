package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unixMode is whom a listener's Unix socket lets in: the daemon's user and group.
const unixMode = 0o660

// How long a socket that closes waits for clients half-way through their handshake.
const (
	sweepPauses = 5
	sweepPause  = time.Millisecond
)

// mostSwept is as many connections as an accept queue can hold (listen(2) takes its length in 16 bits): more came later.
const mostSwept = 1 << 16

// socket is one address and its accept loop.
type socket struct {
	listener
	address string
	closing chan struct{}
	done    chan struct{} // closed with the socket
}

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
	return &socket{listener: l, address: address, closing: make(chan struct{}), done: make(chan struct{})}, nil
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
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// explain says in the operator's words why an address cannot be bound, and what to do. The caller holds mu.
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

// overlap tells whether one of two addresses is a wildcard that covers the other.
func overlap(a, b string) bool {
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

// wake tells the accept loop to close the socket. Nobody finds the path of a Unix socket any more.
func (sock *socket) wake() {
	if u, ok := sock.listener.(*UnixSocket); ok {
		u.unlink()
	}
	close(sock.closing)
	sock.SetDeadline(time.Unix(1, 0))
}

// accept takes connections until the socket is to close. It outlives a want of descriptors.
func (s *Set) accept(sock *socket) {
	defer close(sock.done)
	defer sock.Close()
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
			s.sweep(sock)
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

// sweep takes what the kernel has queued for a socket that closes: the close would reset it.
func (s *Set) sweep(sock *socket) {
	sock.deafen()
	for swept, pauses := 0, 0; swept < mostSwept; {
		if !sock.queued() {
			if pauses == sweepPauses {
				return
			}
			pauses++
			time.Sleep(sweepPause) // in the kernel it would hold a thread for each socket that closes
			continue
		}
		swept++
		sock.SetDeadline(time.Now().Add(time.Second)) // it does not wait: there is a connection
		c, err := sock.Accept()
		if err != nil {
			return
		}
		s.Handle(sock.address, c)
	}
}

// deafen has the kernel overlook who only now begins to connect, until the close refuses him: otherwise one whose connection is
// complete just after the last look at the queue would be reset. Where it cannot be done that remains.
func (sock *socket) deafen() {
	if _, ok := sock.listener.(*net.TCPListener); !ok {
		return // a Unix socket's path is gone already
	}
	const flags, syn, ack = 13, 0x02, 0x10 // the octet of a TCP header that holds the flags (RFC 9293 section 3.1)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
}

// queued tells whether a connection waits to be accepted. Only poll(2) tells it without a wait.
func (sock *socket) queued() bool {
	raw, err := sock.SyscallConn()
	if err != nil {
		return false
	}
	ready := 0
	err = raw.Control(func(fd uintptr) {
		ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return err == nil && ready > 0
}
