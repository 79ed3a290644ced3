package smtp

import (
	"crypto/tls"
	"time"
)

// LineEndings says what becomes of a bare CR or LF in DATA, and of a bare LF that ends a command.
type LineEndings int

// The values of line_endings in lsmtpd.yaml.
const (
	RejectBare LineEndings = iota // 550 5.6.0 after the final dot; a command ended by a bare LF is 500 and closes
	FixBare                       // becomes CRLF
	PassBare                      // the octets stay
)

// Settings are a session's own, pinned when it is accepted. They are shared by sessions and not changed.
type Settings struct {
	Hostname      string
	SizeLimit     int64         // octets of content after unstuffing, without the prefix; 0 is no limit. Told after EHLO
	MaxRecipients int           // 0 is no limit
	Timeout       time.Duration // longest silence of the client; 0 is no limit
	LineEndings   LineEndings
	TLS           *tls.Config // nil: not offered
	ImplicitTLS   bool        // handshake before the greeting
	Auth          bool        // AUTH is offered …
	AuthPlaintext bool        // … also without TLS
}
