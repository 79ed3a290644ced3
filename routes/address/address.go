// Package address parses, compares and writes one mailbox of RFC 5321 and RFC 6531.
// It does not know what a mailbox is used for.
package address

// Address is a mailbox. The zero Address is the null reverse-path "<>".
type Address struct {
	Local  string // unquoted octets
	Domain string // A-labels in lower case, or an address literal like [192.0.2.1] or [IPv6:2001:db8::1]
}

// Parse reads a mailbox without angle brackets.
func Parse(s string) (Address, error) { return Address{}, nil }

// IsNull tells the null reverse-path.
func (a Address) IsNull() bool { return a == Address{} }

// String writes a in canonical quoting (RFC 5321 4.1.2): quoted only where a dot-string cannot say it. The null address is "".
func (a Address) String() string { return "" }
