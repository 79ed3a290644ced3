package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
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
	stateSynRecv  = 3
	diagBuffer    = 32 << 10
	diagMostReads = 1 << 10 // of one answer: a flood of half-open connections is not read to its end
)

// halfOpen returns the local TCP ports at which a handshake of one of these families is under way (sock_diag(7)). The kernel walks
// the table of all its connections for each family: milliseconds, on a machine with much memory.
func halfOpen(families []byte) (map[uint16]bool, error) {
	if len(families) == 0 {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ports := map[uint16]bool{}
	for _, family := range families {
		if err := unix.Sendto(fd, diagRequest(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, err
		}
		if err := readDiag(fd, ports); err != nil {
			return nil, err
		}
	}
	return ports, nil
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

// readDiag reads the answer to one question, and enters its ports.
func readDiag(fd int, ports map[uint16]bool) error {
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
			case m.Header.Type == unix.SOCK_DIAG_BY_FAMILY && len(m.Data) >= answerPort+2:
				ports[binary.BigEndian.Uint16(m.Data[answerPort:])] = true
			}
		}
	}
	return errors.New("sock_diag: too long an answer")
}
