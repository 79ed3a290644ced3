package routes

import (
	"fmt"
	"strconv"

	"lsmtpd/routes/address"
)

// Pattern is one entry of match.recipient or match.sender by itself, for whoever looks for mail that is there already. The zero
// Pattern takes nobody.
type Pattern struct{ mailbox mailbox }

// ParsePattern reads an address, a domain, a .suffix, a pattern with *, or "<>". Its error says what s would have to look like.
func ParsePattern(s string) (Pattern, error) {
	b, wrong := parseMailbox(s)
	if wrong != "" {
		return Pattern{}, fmt.Errorf("%s %s", strconv.Quote(s), wrong)
	}
	return Pattern{b}, nil
}

// Match tells whether p takes a.
func (p *Pattern) Match(a address.Address) bool { return p.mailbox.holds(&a) }
