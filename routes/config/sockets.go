package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"lsmtpd/routes/address"
)

// maxSocketPath is the longest path of a Unix socket on Linux, in octets.
const maxSocketPath = 107

func setPath(d *decoder, v reflect.Value, text string, _ *field) string {
	if text == "" {
		return "is not a path"
	}
	v.SetString(d.relative(text))
	return ""
}

func setSocket(d *decoder, v reflect.Value, text string, f *field) string {
	if wrong := setPath(d, v, text, f); wrong != "" {
		return wrong
	}
	if len(v.String()) > maxSocketPath {
		return "is over 107 octets, more than the path of a socket can have"
	}
	return ""
}

func setHostname(_ *decoder, v reflect.Value, text string, _ *field) string {
	name, err := address.ParseDomain(text)
	if err != nil {
		return "is not a host name (like mail.example.com)"
	}
	v.SetString(name)
	return ""
}

// setTCP takes what the status page listens on: "" is nothing.
func setTCP(_ *decoder, v reflect.Value, text string, _ *field) string {
	if text == "" {
		return ""
	}
	canonical, ok := tcpAddress(text)
	if !ok {
		return notAnAddress
	}
	v.SetString(canonical)
	return ""
}

// absolute returns the one spelling of path that two who mean the same file share; links are not followed.
func absolute(path string) string {
	whole, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return whole
}

const notAnAddress = "is not IP:port (like 127.0.0.1:25, [::1]:25, or :25 for every address)"

func setListen(d *decoder, v reflect.Value, text string, _ *field) string {
	if path, unix := strings.CutPrefix(text, "unix:"); unix {
		if path == "" {
			return "names no socket (like unix:/run/lsmtpd/in.sock)"
		}
		path = absolute(d.relative(path))
		if len(path) > maxSocketPath {
			return "has a path over 107 octets, more than a socket can have"
		}
		v.SetString("unix:" + path)
		return ""
	}
	if name, inherited := strings.CutPrefix(text, "systemd:"); inherited {
		if name == "" || len(name) > maxShortString || strings.ContainsAny(name, ": /") {
			return "names no FileDescriptorName of systemd (like systemd:smtp)"
		}
		v.SetString(text)
		return ""
	}
	canonical, ok := tcpAddress(text)
	if !ok {
		return notAnAddress
	}
	v.SetString(canonical)
	return ""
}

// tcpAddress returns the canonical form of IP:port, [v6]:port or :port.
func tcpAddress(text string) (string, bool) {
	host, port, found := cutPort(text)
	if !found {
		return "", false
	}
	n, ok := parseCount(port)
	if !ok || n < 1 || n > 65535 {
		return "", false
	}
	if host == "" {
		return ":" + strconv.FormatInt(n, 10), true
	}
	ip, err := netip.ParseAddrPort(host + ":" + strconv.FormatInt(n, 10))
	if err != nil {
		return "", false
	}
	return netip.AddrPortFrom(ip.Addr().Unmap(), ip.Port()).String(), true
}

// cutPort cuts text at its last colon.
func cutPort(text string) (host, port string, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", "", false
	}
	return text[:i], text[i+1:], true
}
