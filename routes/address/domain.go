package address

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// ParseDomain reads a domain or an address literal, and returns its canonical form: A-labels in lower case, or the
// literal in the shortest form of its address. A text that is canonical already costs no allocation.
func ParseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	if IsASCII(s) {
		if !isDomain(s) {
			return "", ErrDomain
		}
		return strings.ToLower(s), nil
	}
	if !utf8.ValidString(s) {
		return "", ErrUTF8
	}
	ascii, err := toASCII(s)
	if err != nil || !isDomain(ascii) {
		return "", ErrDomain
	}
	return ascii, nil
}

// isDomain tells a Domain of RFC 5321 section 4.1.2: labels of letters, digits and inner hyphens.
func isDomain(s string) bool {
	begin := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if !isLetDig(s[i]) && s[i] != '-' {
				return false
			}
			continue
		}
		if i == begin || i-begin > maxLabel || s[begin] == '-' || s[i-1] == '-' {
			return false
		}
		begin = i + 1
	}
	return len(s) < maxPath
}

// parseLiteral reads an IPv4 or IPv6 address literal (RFC 5321 section 4.1.3). Other kinds have never been registered.
func parseLiteral(s string) (string, error) {
	const tag = "IPv6:"
	if !strings.HasSuffix(s, "]") {
		return "", ErrDomain
	}
	text := s[1 : len(s)-1]
	if len(text) < len(tag) || !strings.EqualFold(text[:len(tag)], tag) {
		ip, err := netip.ParseAddr(text)
		if err != nil || !ip.Is4() {
			return "", ErrDomain
		}
		return s, nil
	}
	text = text[len(tag):]
	ip, err := netip.ParseAddr(text)
	if err != nil || !ip.Is6() || ip.Zone() != "" || shortensOneGroup(text) {
		return "", ErrDomain
	}
	return "[" + tag + ip.String() + "]", nil
}

// shortensOneGroup tells an IPv6 address whose "::" stands for less than two groups, which RFC 5321 does not allow.
func shortensOneGroup(s string) bool {
	before, after, found := strings.Cut(s, "::")
	if !found {
		return false
	}
	groups := 0
	for _, part := range []string{before, after} {
		if part != "" {
			groups += 1 + strings.Count(part, ":")
		}
	}
	if strings.Contains(after, ".") {
		groups++ // the IPv4 tail is two
	}
	return groups > 6
}

// sourceRoute returns the octets of the source route that begins s, with its colon; 0 where there is none, or a bad one.
func sourceRoute(s string) int {
	for i := 0; i < len(s) && s[i] == '@'; {
		end := strings.IndexAny(s[i:], ",:>")
		if end < 0 {
			return 0
		}
		end += i
		if domain := s[i+1 : end]; IsASCII(domain) && !isDomain(domain) {
			return 0
		}
		switch s[end] {
		case ':':
			return end + 1
		case '>':
			return 0
		}
		i = end + 1
	}
	return 0
}
