// Package mail is one mail on its way from a session to the broker or the disk: envelope, delivery, and how both are written
// as an AMQP message. It knows no connection and no file.
package mail

import (
	"net/netip"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// The two forms of a payload.
const (
	JSON = "json" // application/json: LSMTPD's six keys and more
	Raw  = "raw"  // message/rfc822: the mail octet for octet, the envelope in AMQP headers
)

// Envelope is what one mail's deliveries share. It is not changed once a Delivery has it.
type Envelope struct {
	ID         uuid.UUID // of the mail: the first delivery's
	Listener   string    // name
	ReceivedAt time.Time
	ClientIP   netip.Addr // invalid on a Unix socket
	Helo       string
	User       string
	TLS        string
	Sender     address.Address
	Size       int64  // octets of the content, the prefix included
	Ret, EnvID string // what MAIL said of notifications (RFC 3461); "" where nothing
}

// Delivery is one AMQP message: a mail to those of its recipients that share a destination. It is filled in once, then only
// read, by any number of goroutines, and not copied.
type Delivery struct {
	ID         uuid.UUID // AMQP message-id, spool file, key of returns
	Envelope   *Envelope
	Recipients []address.Address
	DSN        []DSN             // of the Recipients; nil where nothing was asked for any of them
	Exchange   string            // "" is AMQP's default exchange
	RoutingKey string            // at most 255 octets
	Format     string            // JSON or Raw
	Headers    map[string]string // the configuration's, rendered
	Content    *memory.Content
	SpooledAt  time.Time // zero for live mail

	// Encoded tells that Content is the JSON payload already, and not the mail: a replay publishes what was spooled, octet for
	// octet, whichever version of lsmtpd wrote it.
	Encoded bool

	measured atomic.Int64 // of Content: its octets in JSON and one more, below zero for base64; 0 is not yet known
}
