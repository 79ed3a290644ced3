package smtp

import (
	"crypto/tls"
	"time"

	"lsmtpd/gateway/memory"
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
	LMTP          bool          // RFC 2033 instead of SMTP
	MinRate       int64         // octets a second inside of DATA and BDAT, averaged once the client was waited for a minute; 0 is no limit
	TLS           *tls.Config   // nil: not offered
	ImplicitTLS   bool          // the handshake comes before the greeting; TLS is not nil
	Auth          bool          // AUTH is offered in TLS …
	AuthPlaintext bool          // … and without it
	Memory        *memory.Share // what content is held against; nil is no limit
}
