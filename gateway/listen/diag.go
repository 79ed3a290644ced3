package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kernel's structures for questions about sockets (linux/inet_diag.h), by their offsets: x/sys does not have them.
const (
	diagAsk       = unix.SizeofNlMsghdr + 56 // octets of a question: the header and an inet_diag_req_v2
	askFamily     = unix.SizeofNlMsghdr
	askProtocol   = unix.SizeofNlMsghdr + 1
	askStates     = unix.SizeofNlMsghdr + 4 // a bit each
	answerPort    = 4                       // of an inet_diag_msg: the local port, in network order
	answerAddress = 8                       // of an inet_diag_msg: the local address, 4 octets or 16 by its family
	answerLeast   = answerAddress + 16
	stateSynRecv  = 3
	diagBuffer    = 32 << 10
	diagMostReads = 1 << 10 // of one answer: a flood of half-open connections is not read to its end
)

// halfOpen returns the local addresses, IPv4 never as mapped into IPv6, at which a TCP handshake of one of these families is under
// way (sock_diag(7)). The kernel walks the table of all its connections for each family: milliseconds, on a machine with much memory.
func halfOpen(families []byte) (map[netip.AddrPort]bool, error) {
	if len(families) == 0 {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	inside := map[netip.AddrPort]bool{}
	for _, family := range families {
		if err := unix.Sendto(fd, diagRequest(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, err
		}
		if err := readDiag(fd, inside); err != nil {
			return nil, err
		}
	}
	return inside, nil
}

// diagRequest asks for every TCP connection of a family whose handshake is under way.
func diagRequest(family byte) []byte {
	b := make([]byte, diagAsk)
	binary.NativeEndian.PutUint32(b[0:], diagAsk)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[askFamily], b[askProtocol] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[askStates:], 1<<stateSynRecv)
	return b
}

// readDiag reads the answer to one question, and enters its local addresses.
func readDiag(fd int, inside map[netip.AddrPort]bool) error {
	b := make([]byte, diagBuffer)
	for range diagMostReads {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return fmt.Errorf("sock_diag: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
			case m.Header.Type == unix.SOCK_DIAG_BY_FAMILY && len(m.Data) >= answerLeast:
				inside[localAddress(m.Data)] = true
			}
		}
	}
	return errors.New("sock_diag: too long an answer")
}

// localAddress is the one in an inet_diag_msg. IPv4 comes to a socket of both families mapped into IPv6.
func localAddress(msg []byte) netip.AddrPort {
	octets := msg[answerAddress:answerLeast]
	if msg[0] == unix.AF_INET {
		octets = octets[:4]
	}
	ip, _ := netip.AddrFromSlice(octets)
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(msg[answerPort:]))
}
