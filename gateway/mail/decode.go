package mail

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// Decode reads a JSON payload, lsmtpd's or one that has LSMTPD's six keys only. The Delivery it returns has no destination and
// no format; its Content is the mail, and the caller's to release.
func Decode(payload []byte) (*Delivery, error) {
	return decode(payload, false)
}

// DecodeEnvelope reads a JSON payload as Decode does, but leaves the mail in it alone: Content is nil.
func DecodeEnvelope(payload []byte) (*Delivery, error) {
	return decode(payload, true)
}

// wire is the payload as it is read.
type wire struct {
	Timestamp     time.Time `json:"timestamp"`
	MessageID     uuid.UUID `json:"message_id"`
	ClientAddress string    `json:"client_address"`
	Recipients    []string  `json:"recipients"`
	EmailContent  content   `json:"email_content"`
	Sender        string    `json:"sender"`
	MailID        uuid.UUID `json:"mail_id"`
	Listener      string    `json:"listener"`
	ClientIP      string    `json:"client_ip"`
	User          string    `json:"user"`
	TLS           string    `json:"tls"`
	Size          int64     `json:"size"`
	DSN           wireDSN   `json:"dsn"`
	Encoding      string    `json:"encoding"`
}

func decode(payload []byte, envelopeOnly bool) (*Delivery, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("payload is not UTF-8")
	}
	w := wire{EmailContent: content{skip: envelopeOnly}}
	err := json.Unmarshal(payload, &w)
	if err == nil {
		err = w.check()
	}
	if err != nil {
		w.EmailContent.release()
		return nil, err
	}
	d := w.delivery()
	if envelopeOnly {
		return d, nil
	}
	d.Content = w.EmailContent.mail
	if w.Encoding == "" {
		return d, nil
	}
	defer w.EmailContent.release()
	d.Content, err = decodeBase64(w.EmailContent.mail.Octets())
	return d, err
}

// check tells which key is missing or cannot be meant.
func (w *wire) check() error {
	year := w.Timestamp.UTC().Year()
	switch {
	case w.Timestamp.IsZero():
		return errors.New("payload without timestamp")
	case year < 0 || year > 9999:
		return errors.New("timestamp cannot be written in UTC")
	case w.MessageID == uuid.Nil:
		return errors.New("payload without message_id")
	case len(w.Recipients) == 0:
		return errors.New("payload without recipients")
	case !w.EmailContent.seen:
		return errors.New("payload without email_content")
	case w.Encoding != "" && w.Encoding != "base64":
		return fmt.Errorf("payload in unknown encoding %q", w.Encoding)
	}
	return nil
}

func (w *wire) delivery() *Delivery {
	e := &Envelope{
		ID:         w.MailID,
		Listener:   w.Listener,
		ReceivedAt: w.Timestamp.UTC(),
		Helo:       w.ClientAddress,
		User:       w.User,
		TLS:        w.TLS,
		Sender:     Mailbox(w.Sender),
		Size:       w.Size,
		Ret:        w.DSN.Ret,
		EnvID:      w.DSN.EnvID,
	}
	if e.ID == uuid.Nil { // LSMTPD's own
		e.ID = w.MessageID
	}
	e.ClientIP, _ = netip.ParseAddr(w.ClientIP) // empty, and so invalid, for a Unix socket
	to := make([]address.Address, len(w.Recipients))
	for i, r := range w.Recipients {
		to[i] = Mailbox(r)
	}
	return &Delivery{ID: w.MessageID, Envelope: e, Recipients: to, DSN: w.DSN.of(len(to))}
}

// Mailbox reads an address that was accepted once. One that Parse takes no longer is split at its last "@": mail that got its
// 250 is not held back for a rule that came later.
func Mailbox(s string) address.Address {
	if a, err := address.Parse(s); err == nil {
		return a
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return address.Address{Local: s}
	}
	return address.Address{Local: s[:at], Domain: s[at+1:]}
}

// content takes the mail out of a payload without making a string of it.
type content struct {
	skip bool
	seen bool
	mail *memory.Content
}

// UnmarshalJSON reads a JSON string that the decoder has checked for syntax.
func (c *content) UnmarshalJSON(quoted []byte) error {
	if quoted[0] != '"' {
		return errors.New("email_content is not a string")
	}
	c.seen = true
	if c.skip {
		return nil
	}
	c.release()
	c.mail = memory.NewContent(nil, len(quoted), nil)
	room := c.mail.Room()
	b, err := appendUnescaped(room[:0], quoted[1:len(quoted)-1])
	c.mail.Extend(len(b))
	return err
}

func (c *content) release() {
	if c.mail != nil {
		c.mail.Release()
		c.mail = nil
	}
}

var long = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendUnescaped appends what the inside of a JSON string stands for. It never appends more than len(s) octets. Half of a
// surrogate pair stands for nothing, and is an error.
func appendUnescaped(b, s []byte) ([]byte, error) {
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(b, s...), nil
		}
		b = append(b, s[:i]...)
		if c := long[s[i+1]]; c != 0 {
			b = append(b, c)
			s = s[i+2:]
			continue
		}
		r := codeUnit(s[i:])
		s = s[i+6:]
		if utf16.IsSurrogate(r) {
			r = utf16.DecodeRune(r, codeUnit(s))
			if r == utf8.RuneError {
				return b, errors.New("email_content holds half of a surrogate pair")
			}
			s = s[6:]
		}
		b = utf8.AppendRune(b, r)
	}
}

// codeUnit reads a \uXXXX escape at the beginning of s; -1 where there is none.
func codeUnit(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

func decodeBase64(text []byte) (*memory.Content, error) {
	n := base64.StdEncoding.DecodedLen(len(text))
	c := memory.NewContent(nil, n, nil)
	n, err := base64.StdEncoding.Decode(c.Room(), text)
	if err != nil {
		c.Release()
		return nil, fmt.Errorf("email_content: %w", err)
	}
	c.Extend(n)
	return c, nil
}
