package mail

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// stamp is how every time is written: nine digits, as LSMTPD did. The times are in UTC, so that it ends in +00:00.
const stamp = "2006-01-02T15:04:05.000000000-07:00"

// Size returns the octets of the payload, counted and not encoded.
func (d *Delivery) Size() int64 {
	if d.Format == Raw {
		return int64(len(d.Content.Octets()))
	}
	return d.JSONSize()
}

// AppendPayload appends the payload to b. It allocates nothing where b has room for Size octets.
func (d *Delivery) AppendPayload(b []byte) []byte {
	if d.Format == Raw {
		return append(b, d.Content.Octets()...)
	}
	return d.AppendJSON(b)
}

// Payload returns what is published without copying it where it need not be made. pooled tells that it is a memory.Buffer,
// which the caller recycles; otherwise it is the Content's own and lives as long as that.
func (d *Delivery) Payload() (octets []byte, pooled bool) {
	if d.Format == Raw || d.Encoded {
		return d.Content.Octets(), false
	}
	return d.AppendJSON(memory.Buffer(int(d.JSONSize()))), true
}

// PayloadMemory returns the octets that Payload takes beside the Content's, which are to be held first.
func (d *Delivery) PayloadMemory() int64 {
	if d.Format == Raw || d.Encoded {
		return 0
	}
	return int64(memory.Capacity(int(d.JSONSize())))
}

// JSONSize returns the octets that AppendJSON appends.
func (d *Delivery) JSONSize() int64 {
	p := pen{counting: true}
	d.write(&p)
	return p.n
}

// AppendJSON appends the JSON form of the mail, whatever Format says: LSMTPD's six keys first, in its order.
func (d *Delivery) AppendJSON(b []byte) []byte {
	p := pen{b: b}
	d.write(&p)
	return p.b
}

// WriteJSON writes to w what AppendJSON appends, behind what is in b: in pieces that fill b, which never grows. b has room for
// 64 KiB at least.
func (d *Delivery) WriteJSON(w io.Writer, b []byte) error {
	p := pen{b: b, out: w}
	d.write(&p)
	p.flush()
	return p.err
}

// write draws the payload. Counting and encoding both come this way, so that they cannot disagree.
func (d *Delivery) write(p *pen) {
	if d.Encoded {
		p.octets(d.Content.Octets())
		return
	}
	e := d.Envelope
	p.raw(`{"timestamp":"`)
	p.time(e.ReceivedAt)
	p.raw(`","message_id":"`)
	p.uuid(d.ID)
	p.raw(`","client_address":`)
	p.text(e.Helo)
	p.raw(`,"recipients":[`)
	for i := range d.Recipients {
		if i > 0 {
			p.raw(",")
		}
		p.address(d.Recipients[i])
	}
	p.raw(`],"email_content":"`)
	isText := p.content(d)
	p.raw(`","sender":`)
	p.address(e.Sender)
	p.raw(`,"mail_id":"`)
	p.uuid(e.ID)
	p.raw(`","listener":`)
	p.text(e.Listener)
	p.raw(`,"client_ip":"`)
	var ip [64]byte
	p.octets(e.ClientIP.WithZone("").AppendTo(ip[:0]))
	p.raw(`","user":`)
	p.text(e.User)
	p.raw(`,"tls":`)
	p.text(e.TLS)
	p.raw(`,"size":`)
	var size [20]byte
	p.octets(strconv.AppendInt(size[:0], e.Size, 10))
	d.writeDSN(p)
	if !isText {
		p.raw(`,"encoding":"base64"`)
	}
	p.raw("}")
}

// contentSize returns the octets of the mail inside the payload, and whether it stands there as text: it does when it is valid
// UTF-8. The answer is kept, because it costs a look at every octet and is asked for twice.
func (d *Delivery) contentSize() (n int64, isText bool) {
	if kept := d.measured.Load(); kept != 0 {
		return max(kept, -kept) - 1, kept > 0
	}
	octets := d.Content.Octets()
	if utf8.Valid(octets) {
		n = int64(escapedLen(octets))
		d.measured.Store(n + 1)
		return n, true
	}
	n = int64(base64.StdEncoding.EncodedLen(len(octets)))
	d.measured.Store(-n - 1)
	return n, false
}

// pen writes JSON behind b, or only counts in n what it would write.
type pen struct {
	b        []byte
	n        int64
	counting bool
	out      io.Writer // takes b whenever it is full; nil: b grows
	err      error     // of out
}

// step is for how many octets pen has room at least after it has flushed, whatever they grow to.
const step = 4 << 10

// room returns how many of n octets may be written now, each of which may become up to growth.
func (p *pen) room(n, growth int) int {
	if p.out == nil {
		return n
	}
	if growth*min(n, step) > cap(p.b)-len(p.b) {
		p.flush()
	}
	return min(n, (cap(p.b)-len(p.b))/growth)
}

func (p *pen) flush() {
	if p.err == nil {
		_, p.err = p.out.Write(p.b)
	}
	p.b = p.b[:0]
}

func (p *pen) raw(s string)    { write(p, s) }
func (p *pen) octets(s []byte) { write(p, s) }

func write[T string | []byte](p *pen, s T) {
	if p.counting {
		p.n += int64(len(s))
		return
	}
	for len(s) > 0 {
		n := p.room(len(s), 1)
		p.b = append(p.b, s[:n]...)
		s = s[n:]
	}
}

// text writes s as a JSON string.
func (p *pen) text(s string) { p.quoted([]byte(s)) }

// address writes a as a JSON string. The usual length needs no memory of its own.
func (p *pen) address(a address.Address) {
	var buf [256]byte
	p.quoted(a.AppendTo(buf[:0]))
}

func (p *pen) quoted(s []byte) {
	if !utf8.Valid(s) {
		s = bytes.ToValidUTF8(s, []byte("\uFFFD"))
	}
	p.raw(`"`)
	if p.counting {
		p.n += int64(escapedLen(s))
	} else {
		p.escaped(s)
	}
	p.raw(`"`)
}

// escaped writes s, which is valid UTF-8, as it stands inside a JSON string.
func (p *pen) escaped(s []byte) {
	const growth = len(`\u0000`)
	for len(s) > 0 {
		n := p.room(len(s), growth)
		p.b = appendEscaped(p.b, s[:n])
		s = s[n:]
	}
}

// base64 writes s in the standard encoding.
func (p *pen) base64(s []byte) {
	for len(s) > 0 {
		n := p.room(len(s), 2)
		if n < len(s) {
			n -= n % 3
		}
		p.b = base64.StdEncoding.AppendEncode(p.b, s[:n])
		s = s[n:]
	}
}

func (p *pen) time(t time.Time) {
	if p.counting {
		p.n += int64(len(stamp))
		return
	}
	p.room(len(stamp), 1)
	p.b = t.UTC().AppendFormat(p.b, stamp)
}

func (p *pen) uuid(id uuid.UUID) {
	if p.counting {
		p.n += 36
		return
	}
	p.room(36, 1)
	p.b = appendUUID(p.b, id)
}

// content writes the mail, and tells whether it stands there as text.
func (p *pen) content(d *Delivery) bool {
	n, isText := d.contentSize()
	switch {
	case p.counting:
		p.n += n
	case isText:
		p.escaped(d.Content.Octets())
	default:
		p.base64(d.Content.Octets())
	}
	return isText
}

// appendUUID appends id as RFC 9562 section 4 writes it.
func appendUUID(b []byte, id uuid.UUID) []byte {
	b = hex.AppendEncode(b, id[:4])
	for _, group := range [...][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		b = append(b, '-')
		b = hex.AppendEncode(b, group)
	}
	return b
}
