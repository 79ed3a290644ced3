package address

import "golang.org/x/net/idna"

// toASCII turns a domain with U-labels into A-labels, by the mapping that browsers and mail servers look names up with
// (UTS 46, not transitional).
func toASCII(s string) (string, error) { return idna.Lookup.ToASCII(s) }
