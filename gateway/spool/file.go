package spool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
)

const (
	prefix  = `{"delivery":`
	suffix  = ".json"
	maxHead = 64 << 10 // octets of a file within which its head ends
)

var (
	// errUnreadable tells a file that no later attempt could read either.
	errUnreadable    = errors.New("unreadable")
	errNotRegular    = fmt.Errorf("%w: not a regular file", errUnreadable)
	errTruncatedHead = fmt.Errorf("%w: truncated in its head", errUnreadable)
	// errNoDestination tells one of LSMTPD's own files.
	errNoDestination = errors.New("a file of LSMTPD: it does not say where to")
)

// head is the value of "delivery", the first key of a file. The keys of the JSON payload follow it.
type head struct {
	Exchange   string            `json:"exchange"`
	RoutingKey string            `json:"routing_key"`
	Format     string            `json:"format"`
	Headers    map[string]string `json:"headers"`
	Listener   string            `json:"listener"`
	SpooledAt  time.Time         `json:"spooled_at"`

	// AcceptedFor is where the mail went before an operator gave it another destination for the first time.
	AcceptedFor *Destination `json:"accepted_for,omitempty"`

	Checksum string `json:"checksum"` // SHA-256 in hex of the octets to be published; the last key
}

// Destination is where a file goes.
type Destination struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

func fileName(id uuid.UUID) string { return id.String() + suffix }

// parseName returns the id that a file name of the spool says.
func parseName(name string) (id uuid.UUID, ok bool) {
	text, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(text)
	return id, err == nil && id.String() == text
}

// newHead returns the head of d's file, as value and as text. Its checksum is not known yet: the text holds zeros for it.
func newHead(d *mail.Delivery, spooled time.Time) (*head, []byte, error) {
	h := &head{
		Exchange: d.Exchange, RoutingKey: d.RoutingKey, Format: d.Format, Headers: d.Headers, Listener: d.Envelope.Listener,
		SpooledAt: spooled.UTC(), Checksum: strings.Repeat("0", 2*sha256.Size),
	}
	text, err := h.text()
	return h, text, err
}

// text is how a file begins.
func (h *head) text() ([]byte, error) {
	var text bytes.Buffer
	text.WriteString(prefix)
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(h); err != nil {
		return nil, err
	}
	octets := bytes.TrimRight(text.Bytes(), "\n")
	if len(octets) >= maxHead {
		return nil, fmt.Errorf("exchange, routing key and headers take %d octets: a file's head takes %d", len(octets), maxHead)
	}
	return octets, nil
}

// piece is how many octets of a file are encoded, and so held in memory, at once. A larger file is a large one.
const piece = 256 << 10

// encode writes the file of d, which has size octets and begins with head.
func encode(f file, d *mail.Delivery, head []byte, size int64) error {
	buf := memory.Buffer(int(min(size, piece)))
	defer memory.Recycle(buf)
	if size > piece {
		return encodeLarge(f, d, head, buf)
	}
	b := d.AppendJSON(append(buf, head...))
	published := b[len(head):]
	if d.Format == mail.Raw {
		published = d.Content.Octets()
	}
	sum := sha256.Sum256(published)
	hex.Encode(b[checksumAt(head):], sum[:])
	b[len(head)] = ',' // was the payload's "{"
	return writeAll(f, b)
}

// checksumAt is where in a head the checksum is.
func checksumAt(head []byte) int { return len(head) - len(`"}`) - hex.EncodedLen(sha256.Size) }

// encodeLarge is encode in pieces, of which buf takes one.
func encodeLarge(f file, d *mail.Delivery, head, buf []byte) error {
	if err := writeAll(f, append(buf, head...)); err != nil {
		return err
	}
	sum := sha256.New()
	p := &pieces{file: f, head: int64(len(head)), sum: sum}
	if d.Format == mail.Raw {
		p.sum = io.Discard
		sum.Write(d.Content.Octets())
	}
	if err := d.WriteJSON(p, buf); err != nil {
		return err
	}
	end := append(hex.AppendEncode(buf, sum.Sum(nil)), `"},`...) // of the head; the comma was the payload's "{"
	_, err := f.WriteAt(end, int64(checksumAt(head)))
	return err
}

// pieces writes the payload of a large file behind its head, and waits for the disk after each piece: on most file systems a small
// file's fsync waits for whatever of other files is on its way.
type pieces struct {
	file    file
	head    int64     // octets
	sum     io.Writer // takes the payload
	written int64     // octets of the payload
}

// Write takes the next piece of the payload.
func (p *pieces) Write(b []byte) (int, error) {
	p.sum.Write(b)
	n, err := p.file.Write(b)
	if err == nil {
		err = p.file.flush(p.head+p.written, int64(n))
	}
	p.written += int64(n)
	return n, err
}

// parseHead reads the head at the beginning of b, the first octets of a file, and returns where the payload's keys begin: at the
// comma. partial tells that b ends before the head does.
func parseHead(b []byte) (h head, payload int, partial bool, err error) {
	if len(b) > 0 && len(b) < len(prefix) && strings.HasPrefix(prefix, string(b)) {
		return h, 0, true, errTruncatedHead
	}
	if !bytes.HasPrefix(b, []byte(prefix)) {
		return h, 0, false, foreign(b)
	}
	end := objectEnd(b[len(prefix):])
	if end < 0 && len(b) < maxHead {
		return h, 0, true, errTruncatedHead
	}
	if end < 0 {
		return h, 0, true, fmt.Errorf("%w: its head does not end within %d octets", errUnreadable, maxHead)
	}
	payload = len(prefix) + end
	if payload == len(b) {
		return h, 0, true, fmt.Errorf("%w: truncated behind its head", errUnreadable)
	}
	dec := json.NewDecoder(bytes.NewReader(b[len(prefix):payload]))
	dec.DisallowUnknownFields() // of a later version, which may mean something else by it
	if err := dec.Decode(&h); err != nil {
		return h, 0, false, fmt.Errorf("%w: head: %w", errUnreadable, err)
	}
	if b[payload] != ',' || h.SpooledAt.IsZero() || h.Format != mail.JSON && h.Format != mail.Raw {
		return h, 0, false, fmt.Errorf("%w: head is not one of this version", errUnreadable)
	}
	return h, payload, false, nil
}

// foreign tells LSMTPD's own files, whose first key is one of its six, from those that are nobody's.
func foreign(b []byte) error {
	text := bytes.TrimLeft(b, " \t\r\n")
	if len(text) > 0 && text[0] == '{' {
		text = bytes.TrimLeft(text[1:], " \t\r\n")
		for _, key := range []string{"timestamp", "message_id", "client_address", "recipients", "email_content", "sender"} {
			if bytes.HasPrefix(text, []byte(`"`+key+`"`)) {
				return errNoDestination
			}
		}
	}
	if len(b) == 0 {
		return fmt.Errorf("%w: empty", errUnreadable)
	}
	return fmt.Errorf("%w: not written by lsmtpd", errUnreadable)
}

// objectEnd returns the octets of the JSON object that begins b, -1 where it does not end.
func objectEnd(b []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// load reads the delivery of a file, in memory that it may have to wait for: then the error is memory.ErrExhausted, or ctx's. Its
// Content is the caller's to release, and holds copies times the file's octets besides, for what the caller makes of it.
func (s *Spool) load(ctx context.Context, id uuid.UUID, copies int) (*mail.Delivery, error) {
	f, err := s.dir.open(fileName(id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := f.size()
	buf := memory.Buffer(maxHead)
	defer memory.Recycle(buf)
	b, err := readAt(f, buf[:min(size, maxHead)], 0)
	if err != nil {
		return nil, err
	}
	h, payload, _, err := parseHead(b)
	if err != nil {
		return nil, err
	}
	needs := 1 + copies
	if h.Format == mail.Raw {
		needs = max(needs, textAndMail)
	}
	return s.inMemory(ctx, size, needs, copies, func() (*mail.Delivery, error) {
		text, err := readText(f, b[payload:], int(size)-payload)
		if err != nil {
			return nil, err
		}
		text.Octets()[0] = '{' // was a comma behind the head
		return h.delivery(id, text)
	})
}

// textAndMail is how many times a file's octets it takes to read the mail itself: the payload, the string in it, and what its base64
// stands for.
const textAndMail = 3

// inMemory has a file of size octets read when needs times as much is held for it, of which copies times stay held besides the Content.
func (s *Spool) inMemory(ctx context.Context, size int64, needs, copies int, read func() (*mail.Delivery, error)) (*mail.Delivery, error) {
	octets := int64(memory.Capacity(int(size)))
	hold, err := s.memory.Hold(ctx, int64(needs)*octets)
	if err != nil {
		return nil, err
	}
	d, err := read()
	if err != nil {
		hold.Release()
		return nil, err
	}
	d.Content.HeldBy(hold, int64(copies)*octets)
	return d, nil
}

// loadStray is load for one of LSMTPD's own files: a delivery without a destination, whose payload is the file as it is.
func (s *Spool) loadStray(ctx context.Context, id uuid.UUID, copies int) (*mail.Delivery, error) {
	f, err := s.dir.open(fileName(id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return s.inMemory(ctx, f.size(), max(1+copies, textAndMail), copies, func() (*mail.Delivery, error) { return readStray(f, id) })
}

func readStray(f source, id uuid.UUID) (*mail.Delivery, error) {
	text, err := readText(f, nil, int(f.size()))
	if err != nil {
		return nil, err
	}
	defer text.Release()
	d, err := mail.DecodeEnvelope(text.Octets())
	if err == nil && d.ID == id {
		d.Content, d.Encoded = text.Retain(), true
	} else if err == nil { // it is published under its file's name: written anew
		d, err = mail.Decode(text.Octets())
	}
	if err != nil {
		return nil, undecodable(text.Octets(), err)
	}
	d.ID, d.Format, d.SpooledAt = id, mail.JSON, f.modified()
	if err := d.Check(); err != nil {
		d.Content.Release()
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return d, nil
}

// undecodable tells why the payload text of a file, with which err was found, will never be read: it may just end too early.
func undecodable(text []byte, err error) error {
	last, size := utf8.DecodeLastRune(text)
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	early := ok && syntax.Offset >= int64(len(text)) || last == utf8.RuneError && size == 1
	if early && !bytes.HasSuffix(text, []byte("}")) {
		return fmt.Errorf("%w: truncated: %w", errUnreadable, err)
	}
	return fmt.Errorf("%w: %w", errUnreadable, err)
}

// readText returns the last n octets of a file, of which the first ones are read already, without white space around them.
func readText(f source, read []byte, n int) (*memory.Content, error) {
	text := memory.NewContent(nil, n, nil)
	room := text.Room()[:n]
	had := copy(room, read)
	if had < n {
		if _, err := readAt(f, room[had:], f.size()-int64(n-had)); err != nil {
			text.Release()
			return nil, err
		}
	}
	const space = " \t\r\n" // jq and editors end a file with a newline
	if b := bytes.TrimLeft(room, space); len(b) < n {
		n = copy(room, b)
	}
	text.Extend(len(bytes.TrimRight(room[:n], space)))
	return text, nil
}

func readAt(f source, b []byte, off int64) ([]byte, error) {
	if _, err := f.ReadAt(b, off); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: truncated", errUnreadable)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

// delivery makes h and the JSON payload text, whose reference it takes over, into what is published.
func (h *head) delivery(id uuid.UUID, text *memory.Content) (*mail.Delivery, error) {
	decode := mail.Decode
	if h.Format == mail.JSON {
		decode = mail.DecodeEnvelope
	}
	d, err := decode(text.Octets())
	if err != nil {
		defer text.Release()
		return nil, undecodable(text.Octets(), err)
	}
	if h.Format == mail.JSON {
		d.Content, d.Encoded = text, true
	} else {
		text.Release()
	}
	d.Exchange, d.RoutingKey, d.Format, d.Headers, d.SpooledAt = h.Exchange, h.RoutingKey, h.Format, h.Headers, h.SpooledAt
	if err := h.verify(d, id); err != nil {
		d.Content.Release()
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return d, nil
}

// verify tells why d is not what was spooled as id.
func (h *head) verify(d *mail.Delivery, id uuid.UUID) error {
	if sum := sha256.Sum256(d.Content.Octets()); hex.EncodeToString(sum[:]) != h.Checksum {
		return errors.New("checksum does not match: the file was changed or damaged")
	}
	if d.ID != id {
		return errors.New("the file's name and its message_id differ")
	}
	return d.Check()
}
