package gateway

import (
	"net/netip"
	"strings"
	"time"
)

// received writes the trace field that a relay must add (RFC 5321 4.4). It names the recipient only where there is one:
// more would tell each of the others.
func (t *transaction) received() []byte {
	e := t.envelope
	b := make([]byte, 0, 384)
	b = append(b, "Received: from "...)
	b = append(b, traceName(e.Helo)...)
	if e.ClientIP.IsValid() {
		b = append(b, " (["...)
		b = appendLiteral(b, e.ClientIP)
		b = append(b, "])"...)
	}
	b = append(b, "\r\n\tby "...)
	b = append(b, t.listener.Hostname...)
	b = append(b, " with "...)
	b = append(b, t.client.Protocol...)
	b = append(b, " id "...)
	b = append(b, e.ID.String()...)
	if len(t.taken) == 1 {
		b = append(b, "\r\n\tfor <"...)
		b = append(b, t.only.String()...)
		b = append(b, '>')
	}
	b = append(b, ";\r\n\t"...)
	b = e.ReceivedAt.AppendFormat(b, time.RFC1123Z)
	return append(b, "\r\n"...)
}

// appendLiteral writes ip as an address literal without its brackets (RFC 5321 4.1.3).
func appendLiteral(b []byte, ip netip.Addr) []byte {
	if ip.Is6() {
		b = append(b, "IPv6:"...)
	}
	return ip.WithZone("").AppendTo(b)
}

// traceName keeps of a name that the client chose what cannot be mistaken for the field's own words.
func traceName(s string) string {
	if s == "" {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_:[]@", r) {
			return r
		}
		return '?'
	}, s)
}
