package listen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// The sizes of a PROXY header in octets (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2).
const (
	shortestV1 = 15  // "PROXY UNKNOWN" and its end
	longestV1  = 107 // with its end
	fixedV2    = 16  // signature, version, family and the length of what follows
	longestV2  = fixedV2 + 4<<10
)

// Why a PROXY header was not read, besides the connection's own error.
var (
	ErrNoProxyHeader  = errors.New("no PROXY header")
	ErrBadProxyHeader = errors.New("malformed PROXY header")
)

// ReadProxyHeader reads the PROXY header, version 1 or 2, that a connection begins with, and not one octet more. It returns the
// client that the proxy speaks for; none where it speaks for itself (LOCAL), or does not tell a TCP client (UNKNOWN). Its error is
// io.EOF where the connection ends before it begins, as those do that only look whether somebody listens.
func ReadProxyHeader(r io.Reader) (client netip.AddrPort, err error) {
	b := make([]byte, 0, longestV1)
	for {
		n, err := missing(b)
		if err != nil {
			return client, err
		}
		if n == 0 {
			return parseProxyHeader(b)
		}
		if n > cap(b)-len(b) {
			b = append(make([]byte, 0, len(b)+n), b...)
		}
		n, err = r.Read(b[len(b) : len(b)+n])
		b = b[:len(b)+n]
		if len(b) == 0 && err == io.EOF {
			return client, err
		}
		if n == 0 && err != nil {
			return client, fmt.Errorf("read the PROXY header: %w", err)
		}
	}
}

// missing returns how many octets the header that begins with b has at least behind b; 0 where it is whole.
func missing(b []byte) (int, error) {
	const v1 = "PROXY "
	switch {
	case len(b) == 0:
		return shortestV1, nil // the shortest of both
	case bytes.HasPrefix(proxyproto.SIGV2, b), bytes.HasPrefix(b, proxyproto.SIGV2):
		if len(b) < fixedV2 {
			return fixedV2 - len(b), nil
		}
		whole := fixedV2 + int(binary.BigEndian.Uint16(b[fixedV2-2:]))
		if whole > longestV2 {
			return 0, fmt.Errorf("%w: %d octets", ErrBadProxyHeader, whole)
		}
		return whole - len(b), nil
	case len(b) < len(v1) && v1[:len(b)] == string(b), bytes.HasPrefix(b, []byte(v1)):
		switch end := bytes.IndexByte(b, '\n'); {
		case end >= 0 && end < len(b)-1:
			return 0, fmt.Errorf("%w: it ends too soon", ErrBadProxyHeader)
		case end >= 0:
			return 0, nil
		case len(b) >= longestV1:
			return 0, fmt.Errorf("%w: it does not end", ErrBadProxyHeader)
		}
		return max(shortestV1-len(b), 1), nil
	}
	return 0, ErrNoProxyHeader
}

// parseProxyHeader parses a whole header.
func parseProxyHeader(b []byte) (client netip.AddrPort, err error) {
	const proxy, family = 0x21, 0xf0 // of version 2: its command PROXY, and where in the next octet the family stands
	if bytes.HasPrefix(b, proxyproto.SIGV2) && b[fixedV2-4] == proxy && b[fixedV2-3]&family == 0 {
		return client, nil // UNSPEC is version 2's UNKNOWN
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return client, fmt.Errorf("%w: %w", ErrBadProxyHeader, err)
	}
	source, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok || h.Command.IsLocal() {
		return client, nil
	}
	from := source.AddrPort()
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}
