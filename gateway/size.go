package gateway

import (
	"math"

	"lsmtpd/gateway/mail"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// SizeLimit is what SIZE tells: the smallest of size_limit, what the broker takes once the mail is encoded, and what the memory
// takes together with its encoded form, which the spool needs in any case: so that nobody uploads for nothing. 0 is no limit.
func SizeLimit(l *routes.Listener, c *config.Config) int64 {
	limit := int64(math.MaxInt64)
	if l.SizeLimit > 0 {
		limit = l.SizeLimit
	}
	switch most := c.AMQP.MaxMessageSize; {
	case most == 0:
	case encodes(l.Listener):
		limit = min(limit, max(most/4*3-512<<10, 1))
	default:
		limit = min(limit, max(most-4<<10, 1))
	}
	if most := c.Limits.Memory; most > 0 {
		limit = min(limit, max(most/7*3-2<<20, 1)) // buffers of both are rounded up by less than 2 MiB each
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// encodes tells whether any of the listener's mail is published as JSON.
func encodes(l *config.Listener) bool {
	if l.Format == mail.JSON {
		return true
	}
	for i := range l.Routes {
		if l.Routes[i].Format == mail.JSON {
			return true
		}
	}
	return false
}
