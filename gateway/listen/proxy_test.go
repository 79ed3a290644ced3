package listen

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

const v2 = "\r\n\r\n\x00\r\nQUIT\n"

// v4 is what follows the version of a header for 192.0.2.7:4000, with more behind the addresses.
func v4(more string) string {
	return "\x11\x00" + string(rune(12+len(more))) + "\xc0\x00\x02\x07\x7f\x00\x00\x01\x0f\xa0\x00\x19" + more
}

const v6Addresses = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x0f\xa0\x00\x19"

// mapped is 192.0.2.7 as an IPv6 address.
const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x07"

var proxyHeaders = []struct {
	name, header, client string // client "" is none
	err                  error
}{
	{"v1 of IPv4", "PROXY TCP4 192.0.2.7 127.0.0.1 4000 25\r\n", "192.0.2.7:4000", nil},
	{"v1 of IPv6", "PROXY TCP6 2001:db8::7 ::1 4000 25\r\n", "[2001:db8::7]:4000", nil},
	{"v1 of IPv4 in IPv6 form", "PROXY TCP6 ::ffff:192.0.2.7 ::1 4000 25\r\n", "192.0.2.7:4000", nil},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", nil},
	{"v1 unknown, with more", "PROXY UNKNOWN 2001:db8::7 ::1 4000 25\r\n", "", nil},
	{"the longest v1", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", "", nil},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", "", ErrBadProxyHeader},
	{"v1 ended by a bare LF", "PROXY TCP4 192.0.2.7 127.0.0.1 4000 25\n", "", ErrBadProxyHeader},
	{"v1 with an end inside", "PROXY \r\nUNKNOWN\r\n", "", ErrBadProxyHeader},
	{"v1 of another family", "PROXY TCP4 2001:db8::7 ::1 4000 25\r\n", "", ErrBadProxyHeader},
	{"v1 with a zone", "PROXY TCP6 fe80::1%eth0 ::1 4000 25\r\n", "", ErrBadProxyHeader},
	{"v1 with a port of six digits", "PROXY TCP4 192.0.2.7 127.0.0.1 400000 25\r\n", "", ErrBadProxyHeader},
	{"v1 with two blanks", "PROXY  TCP4 192.0.2.7 127.0.0.1 4000 25\r\n", "", ErrBadProxyHeader},
	{"v1 in small letters", "proxy TCP4 192.0.2.7 127.0.0.1 4000 25\r\n", "", ErrNoProxyHeader},
	{"v2 of IPv4", v2 + "\x21" + v4(""), "192.0.2.7:4000", nil},
	{"v2 with fields behind", v2 + "\x21" + v4("\x04\x00\x02ab"), "192.0.2.7:4000", nil},
	{"v2 of IPv6", v2 + "\x21\x21\x00\x24" + v6Addresses, "[2001:db8::7]:4000", nil},
	{"v2 of IPv4 in IPv6 form", v2 + "\x21\x21\x00\x24" + mapped + v6Addresses[16:], "192.0.2.7:4000", nil},
	{"v2 of a Unix socket", v2 + "\x21\x31\x00\xd8" + strings.Repeat("a", 216), "", nil},
	{"v2 of an unknown family", v2 + "\x21\x00\x00\x00", "", nil},
	{"v2 of an unknown family, with more", v2 + "\x21\x01\x00\x0c" + strings.Repeat("a", 12), "", nil},
	{"v2 local", v2 + "\x20\x00\x00\x00", "", nil},
	{"v2 local with addresses", v2 + "\x20" + v4(""), "", nil},
	{"v2 local with fields", v2 + "\x20\x00\x00\x05\x04\x00\x02ab", "", nil},
	{"v2 too short for its addresses", v2 + "\x21\x11\x00\x04\xc0\x00\x02\x07", "", ErrBadProxyHeader},
	{"v2 of no version", v2 + "\x31" + v4(""), "", ErrBadProxyHeader},
	{"v2 of no command", v2 + "\x22" + v4(""), "", ErrBadProxyHeader},
	{"v2 of no family", v2 + "\x21\x41\x00\x00", "", ErrBadProxyHeader},
	{"v2 far too long", v2 + "\x21\x11\xff\xff" + strings.Repeat("a", 100), "", ErrBadProxyHeader},
	{"mail", "EHLO client.example\r\n", "", ErrNoProxyHeader},
	{"a handshake", "\x16\x03\x01\x02\x00", "", ErrNoProxyHeader},
	{"nearly v2", "\r\n\r\n\x00\r\nQUIT\r", "", ErrNoProxyHeader},
	{"nothing", "", "", io.EOF},
	{"half of v1", "PROXY TCP4 192.0.2.7", "", io.EOF},
	{"half of v2", v2 + "\x21\x11", "", io.EOF},
}

func TestAProxyHeaderTellsTheClientAndNotOneOctetBehindItIsTaken(t *testing.T) {
	for _, tt := range proxyHeaders {
		t.Run(tt.name, func(t *testing.T) {
			const behind = "\x16\x03\x01 or EHLO\r\n"
			all := tt.header + behind
			if tt.err == io.EOF {
				all = tt.header
			}
			for _, r := range []io.Reader{strings.NewReader(all), iotest.OneByteReader(strings.NewReader(all)), iotest.DataErrReader(strings.NewReader(all))} {
				client, err := ReadProxyHeader(r)
				if !errors.Is(err, tt.err) || err == nil && clientText(client) != tt.client {
					t.Errorf("client %v, %v", client, err)
				}
				if rest, _ := io.ReadAll(r); err == nil && string(rest) != behind {
					t.Errorf("left is %q", rest)
				}
			}
		})
	}
}

func clientText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// FuzzReadProxyHeader holds what is taken of any octets against the header's own words about its length.
func FuzzReadProxyHeader(f *testing.F) {
	for _, tt := range proxyHeaders {
		f.Add([]byte(tt.header + "EHLO a\r\n"))
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		whole := bytes.NewReader(octets)
		client, err := ReadProxyHeader(whole)
		taken := len(octets) - whole.Len()
		slow := bytes.NewReader(octets)
		if again, errAgain := ReadProxyHeader(iotest.OneByteReader(slow)); again != client || (err == nil) != (errAgain == nil) || err == nil && slow.Len() != whole.Len() {
			t.Errorf("%q read in pieces gives %v, %v, and whole %v, %v", octets, again, errAgain, client, err)
		}
		if err != nil {
			if client.IsValid() {
				t.Errorf("a client, %v, with an error, %v", client, err)
			}
			return
		}
		want := 0
		if end := bytes.Index(octets, []byte("\r\n")); bytes.HasPrefix(octets, []byte("PROXY ")) {
			want = end + 2
		} else if bytes.HasPrefix(octets, []byte(v2)) {
			want = 16 + int(octets[14])<<8 + int(octets[15])
		}
		if taken != want {
			t.Errorf("%d octets of %q are taken, want %d", taken, octets, want)
		}
		if client.Addr().Is4In6() || client.Addr().Zone() != "" {
			t.Errorf("the client is %v", client)
		}
	})
}
