// Package address parses, compares and writes one mailbox of RFC 5321 and RFC 6531.
// It does not know what a mailbox is used for.
package address

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Limits of RFC 5321 section 4.5.3.1, in octets as written. The RFC's 64 for a local part is doubled: addresses made by
// programs (VERP, SRS, sub-addresses) are longer, and nothing here depends on it.
const (
	maxLocal = 128
	maxPath  = 256 // with its angle brackets
	maxLabel = 63
)

// What a mailbox or a path can be refused for. Anything but the first three is a plain error of syntax.
var (
	// ErrNoDomain tells a local part alone. The Address that comes with it has that local part: "postmaster" is allowed so
	// (RFC 5321 section 4.1.1.3).
	ErrNoDomain = errors.New("address without a domain")
	// ErrBrackets tells a path that is not in angle brackets.
	ErrBrackets = errors.New("address not in angle brackets")
	// ErrUTF8 tells octets beyond ASCII that are not UTF-8.
	ErrUTF8 = errors.New("address is not valid UTF-8")

	ErrLocal  = errors.New("bad local part of an address")
	ErrDomain = errors.New("bad domain of an address")
	ErrLength = errors.New("address too long")
)

// Address is a mailbox. The zero Address is the null reverse-path "<>". Addresses that Parse returned are comparable by ==,
// but for the case of local parts, which Equal passes over.
type Address struct {
	Local  string // unquoted octets, valid UTF-8 without control characters
	Domain string // A-labels in lower case, or an address literal like [192.0.2.1] or [IPv6:2001:db8::1]
}

// Parse reads a mailbox without angle brackets. It accepts UTF-8 (RFC 6531) in local parts and domains; who must not
// take it asks IsASCII of the text. Parse allocates only where the canonical form differs from the text.
func Parse(s string) (Address, error) {
	if len(s) > maxPath-len("<>") {
		return Address{}, ErrLength
	}
	if !IsASCII(s) && !utf8.ValidString(s) {
		return Address{}, ErrUTF8
	}
	local, rest, err := parseLocal(s)
	if err != nil {
		return Address{}, err
	}
	if rest == "" {
		return Address{Local: local}, ErrNoDomain
	}
	domain, err := ParseDomain(rest[1:])
	if err != nil {
		return Address{}, err
	}
	a := Address{Local: local, Domain: domain}
	// A-labels are longer than what they stand for.
	if len(domain) > len(rest)-1 && a.size() > maxPath-len("<>") {
		return Address{}, ErrLength
	}
	return a, nil
}

// ParsePath reads a reverse- or forward-path (RFC 5321 section 4.1.2) at the beginning of s and returns what follows its
// closing bracket, which is valid with every error but ErrBrackets. A source route is checked and dropped (section 4.1.1.3).
// "<>" gives the zero Address and no error.
func ParsePath(s string) (a Address, rest string, err error) {
	if s == "" || s[0] != '<' {
		return Address{}, s, ErrBrackets
	}
	route := sourceRoute(s[1:])
	mailbox := s[1+route:]
	end := 0
	if strings.HasPrefix(mailbox, `"`) {
		end = quotedEnd(mailbox)
	}
	closing := strings.IndexByte(mailbox[end:], '>')
	if closing < 0 {
		return Address{}, s, ErrBrackets
	}
	end += closing
	mailbox, rest = mailbox[:end], mailbox[end+1:]
	if mailbox == "" && route == 0 {
		return Address{}, rest, nil
	}
	a, err = Parse(mailbox)
	return a, rest, err
}

// IsNull tells the null reverse-path.
func (a Address) IsNull() bool { return a == Address{} }

// Equal tells whether a and b are one mailbox, the case of local parts passed over.
func (a Address) Equal(b Address) bool {
	return a.Domain == b.Domain && strings.EqualFold(a.Local, b.Local)
}

// String writes a in canonical quoting (RFC 5321 section 4.1.2): quoted only where a dot-string cannot say it.
// The null address is "".
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	if isDotString(a.Local) {
		if a.Domain == "" {
			return a.Local
		}
		return a.Local + "@" + a.Domain
	}
	return string(a.AppendTo(make([]byte, 0, a.size())))
}

// AppendTo appends what String returns.
func (a Address) AppendTo(b []byte) []byte {
	if a.IsNull() {
		return b
	}
	b = appendLocal(b, a.Local)
	if a.Domain == "" {
		return b
	}
	b = append(b, '@')
	return append(b, a.Domain...)
}

// LocalString writes the local part alone in canonical quoting.
func (a Address) LocalString() string {
	if isDotString(a.Local) {
		return a.Local
	}
	return string(appendLocal(make([]byte, 0, len(a.Local)+8), a.Local))
}

// size returns the octets of a's canonical form, or a few more.
func (a Address) size() int {
	n := len(a.Local) + len("@") + len(a.Domain)
	if isDotString(a.Local) {
		return n
	}
	return n + len(`""`) + strings.Count(a.Local, `"`) + strings.Count(a.Local, `\`)
}

// IsASCII tells whether every octet of s is US-ASCII: a path that is not needs SMTPUTF8 (RFC 6531).
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
