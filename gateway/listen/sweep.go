package listen

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A socket that closes resets every connection in its queue, and every client that comes out of its handshake just then. So it is
// first made deaf: nobody new gets in. Then those half-way in are waited for, and the queue is emptied, in this order: a handshake
// that is over has left its connection in the queue. Only then it closes. One look is not enough: what another processor is just
// about to enter, as a handshake or into the queue, is for a moment in neither.

const (
	sweepMost  = 2 * time.Second       // for clients half-way in: the kernel asks one that is silent again after a second
	sweepBlind = 50 * time.Millisecond // the same, where the kernel does not tell whether there are any
	sweepPause = 2 * time.Millisecond  // between two looks
	sweepLooks = 2                     // in a row that must find nobody half-way in
)

// mostSwept is as many connections as an accept queue can hold (listen(2) takes its length in 16 bits): more came later.
const mostSwept = 1 << 16

// sweep takes what the kernel has queued for sockets that were woken, and closes those that nobody takes back.
func (s *Set) sweep(socks []*socket) {
	for _, sock := range socks {
		<-sock.left
	}
	begun := time.Now()
	for left := slices.Clone(socks); ; time.Sleep(sweepPause) {
		inside, err := halfOpen(families(left))
		waited := time.Since(begun)
		left = slices.DeleteFunc(left, func(sock *socket) bool {
			if state := sock.state.Load(); state != swept {
				sock.looks = 0
				return state == returned
			}
			if err != nil && waited < sweepBlind || sock.anyOf(inside) {
				sock.looks = 0
			} else {
				sock.looks++
			}
			s.empty(sock)
			if sock.looks < sweepLooks && waited < sweepMost || !sock.state.CompareAndSwap(swept, gone) {
				return false
			}
			sock.Close()
			close(sock.closed)
			return true
		})
		if len(left) == 0 {
			return
		}
	}
}

// empty hands over what is in the queue of a deaf socket.
func (s *Set) empty(sock *socket) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	for range mostSwept {
		var c net.Conn
		if raw.Control(func(fd uintptr) { c, err = acceptNow(int(fd)) }) != nil || err != nil {
			return
		}
		s.Handle(sock.address, c)
	}
}

// acceptNow takes one connection from the queue of a socket, and does not wait for one: the net package would.
func acceptNow(fd int) (net.Conn, error) {
	for {
		taken, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			f := os.NewFile(uintptr(taken), "")
			defer f.Close() // the connection has a descriptor of its own
			return net.FileConn(f)
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return nil, err
		}
	}
}

// families are those in which clients of these sockets come: a wildcard of IPv6 may take both.
func families(socks []*socket) []byte {
	var v4, v6 bool
	for _, sock := range socks {
		addr, ok := sock.Addr().(*net.TCPAddr)
		v4 = v4 || ok && (addr.IP.To4() != nil || addr.IP.IsUnspecified())
		v6 = v6 || ok && addr.IP.To4() == nil
	}
	var all []byte
	if v4 {
		all = append(all, unix.AF_INET)
	}
	if v6 {
		all = append(all, unix.AF_INET6)
	}
	return all
}

// anyOf tells whether one of these local addresses, none of them mapped, is the socket's: who comes there comes to it. A wildcard has
// every address of its family, the one without a host those of both. A zone is not looked at: the kernel does not tell it here.
func (sock *socket) anyOf(local map[netip.AddrPort]bool) bool {
	addr, ok := sock.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, both := addr.AddrPort().Addr().Unmap().WithZone(""), strings.HasPrefix(sock.address, ":")
	if !both && !ip.IsUnspecified() {
		return local[netip.AddrPortFrom(ip, uint16(addr.Port))]
	}
	for l := range local {
		if int(l.Port()) == addr.Port && (both || l.Addr().Is4() == ip.Is4()) {
			return true
		}
	}
	return false
}

// port is a TCP socket's own; 0 for one of another kind.
func (sock *socket) port() uint16 {
	if addr, ok := sock.Addr().(*net.TCPAddr); ok {
		return uint16(addr.Port)
	}
	return 0
}

// deafen has the kernel overlook who only now begins to connect, until the close refuses him. Where it cannot be done, who comes
// in the last moment is reset.
func (sock *socket) deafen() {
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if sock.port() == 0 {
			_ = unix.Shutdown(int(fd), unix.SHUT_RD) // a Unix socket's queue can still be taken then
			return
		}
		filter := overlookSYN
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
}

// hear undoes deafen, and what wake did to the deadline.
func (sock *socket) hear() error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var detached error
	err = raw.Control(func(fd uintptr) {
		detached = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	})
	if detached == unix.ENOENT {
		detached = nil // there was none
	}
	return errors.Join(err, detached, sock.SetDeadline(time.Time{}))
}

// overlookSYN drops every TCP segment that opens a connection (RFC 9293 section 3.1), and lets the rest in.
var overlookSYN = func() []unix.SockFilter {
	const flags, syn, ack = 13, 0x02, 0x10 // the octet of a header that holds the flags, and two of them
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
}()
