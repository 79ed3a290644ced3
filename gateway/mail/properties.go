package mail

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// What the AMQP properties app-id and type of every message say.
const (
	AppID = "lsmtpd"
	Type  = "lsmtpd.mail.v1"
)

// MaxTable is the most octets of a header table: it must fit in one frame, and brokers take frames of 128 KiB unless told otherwise.
const MaxTable = 64 << 10

const (
	maxShort      = 255 // octets of a short string: exchange, routing key, header name (AMQP 0-9-1 section 4.2.5.3)
	besideTable   = 128 // octets at most of a content header frame beside its table, the frame's own eight included
	leastFrameMax = 4096
)

// TableIn returns how many octets of a header table one frame has room for, where frames have frameMax octets; 0 is no limit.
func TableIn(frameMax int) int {
	if frameMax <= 0 {
		return MaxTable
	}
	return min(max(frameMax, leastFrameMax)-besideTable, MaxTable)
}

// ContentType returns the AMQP property content-type.
func (d *Delivery) ContentType() string {
	if d.Format == Raw {
		return "message/rfc822"
	}
	return "application/json"
}

// AMQPHeaders returns the header table. It is the same live and replayed but for lsmtpd-spooled. Its values
// are string, int64 and []any of string.
func (d *Delivery) AMQPHeaders() map[string]any {
	n := len(d.Headers) + 2
	if d.Format == Raw {
		n += 10
	}
	h := make(map[string]any, n)
	h["traceparent"] = d.traceParent()
	for name, value := range d.Headers {
		h[name] = value
	}
	if !d.SpooledAt.IsZero() {
		h["lsmtpd-spooled"] = formatStamp(d.SpooledAt)
	}
	if d.Format == Raw {
		recipients := make([]any, len(d.Recipients))
		for i := range d.Recipients {
			recipients[i] = wellFormed(d.Recipients[i].String())
		}
		h["lsmtpd-recipients"] = recipients
		h["lsmtpd-size"] = d.Envelope.Size
		for _, f := range d.Envelope.fields() {
			h[f.name] = f.value
		}
		d.addDSN(h)
	}
	return h
}

// traceParent is W3C Trace Context's: the trace is the mail, the span is the delivery, so that they are the same live and replayed.
func (d *Delivery) traceParent() string {
	trace, span := d.Envelope.ID, d.ID[8:] // never all zero in a version 4 UUID: the variant is there
	if trace == uuid.Nil {
		trace = d.ID // LSMTPD's own files name no mail
	}
	if [8]byte(span) == [8]byte{} {
		span = d.ID[:8]
	}
	b := make([]byte, 0, len(traceParent))
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span)
	return string(append(b, "-01"...))
}

// traceParent is as long as each.
const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

type field struct{ name, value string }

// fields returns what the headers of Raw say of the envelope in plain strings.
func (e *Envelope) fields() [8]field {
	ip := ""
	if e.ClientIP.IsValid() {
		ip = e.ClientIP.WithZone("").String()
	}
	return [...]field{
		{"lsmtpd-mail-id", e.ID.String()},
		{"lsmtpd-listener", wellFormed(e.Listener)},
		{"lsmtpd-sender", wellFormed(e.Sender.String())},
		{"lsmtpd-client-ip", ip},
		{"lsmtpd-helo", wellFormed(e.Helo)},
		{"lsmtpd-user", wellFormed(e.User)},
		{"lsmtpd-tls", wellFormed(e.TLS)},
		{"lsmtpd-received-at", formatStamp(e.ReceivedAt)},
	}
}

// Fit returns how many of d's recipients, from the first, a header table of so many octets has room for. What is over goes into
// further deliveries. It is 0 where not even one fits, because the configuration's headers are too large.
func (d *Delivery) Fit(table int) int {
	room := table - d.tableSize()
	if room < 0 {
		return 0
	}
	if d.Format != Raw {
		return len(d.Recipients)
	}
	dsn, arrays := d.dsnSize()
	room -= dsn
	for i := range d.Recipients {
		room -= 5 + len(wellFormed(d.Recipients[i].String()))
		for _, field := range arrays {
			room -= 5 + len(wellFormed(field(d.DSN[i])))
		}
		if room < 0 {
			return i
		}
	}
	return len(d.Recipients)
}

// tableSize returns the octets of the header table without its recipients, on the wire (AMQP 0-9-1 section 4.2.5.5):
// a length of four, then for each field a short string, a type and a value; long strings and arrays have lengths of four.
// lsmtpd-spooled is counted always, so that what fits live fits in a replay.
func (d *Delivery) tableSize() int {
	long := func(name, value string) int { return 1 + len(name) + 1 + 4 + len(value) }
	n := 4 + long("lsmtpd-spooled", stamp) + long("traceparent", traceParent)
	for name, value := range d.Headers {
		n += long(name, value)
	}
	if d.Format == Raw {
		n += long("lsmtpd-recipients", "") + 1 + len("lsmtpd-size") + 1 + 8
		for _, f := range d.Envelope.fields() {
			n += long(f.name, f.value)
		}
	}
	return n
}

// Check tells why d must not be published by any broker: one field too long for AMQP would close the connection for everybody, and
// one that is not UTF-8 would come out of the spool as another.
func (d *Delivery) Check() error { return d.CheckWithin(MaxTable) }

// CheckWithin is Check for a broker that takes header tables of so many octets.
func (d *Delivery) CheckWithin(table int) error {
	switch {
	case d.Format != JSON && d.Format != Raw:
		return fmt.Errorf("unknown format %q", d.Format)
	case len(d.Exchange) > maxShort:
		return fmt.Errorf("exchange of %d octets: AMQP takes %d", len(d.Exchange), maxShort)
	case len(d.RoutingKey) > maxShort:
		return fmt.Errorf("routing key of %d octets: AMQP takes %d", len(d.RoutingKey), maxShort)
	case !utf8.ValidString(d.Exchange) || !utf8.ValidString(d.RoutingKey):
		return errors.New("exchange or routing key is not UTF-8")
	case len(d.Recipients) == 0:
		return errors.New("no recipient")
	}
	for name, value := range d.Headers {
		if len(name) > maxShort {
			return fmt.Errorf("header name of %d octets: AMQP takes %d", len(name), maxShort)
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return fmt.Errorf("header %q is not UTF-8", name)
		}
	}
	if n := d.Fit(table); n < len(d.Recipients) {
		return fmt.Errorf("header table over the %d octets that one frame of the broker takes: %d of %d recipients fit",
			table, n, len(d.Recipients))
	}
	return nil
}

// wellFormed returns s with what is no UTF-8 in it replaced, as the payload has it.
func wellFormed(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func formatStamp(t time.Time) string { return t.UTC().Format(stamp) }
