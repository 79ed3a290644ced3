package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

const (
	shownAtOnce  = 2                // mails in the hands of operators: what they hold is missing to those that are sent
	showPatience = 30 * time.Second // how long there may be no room for one more
)

// ErrCrowded tells that a mail could not be read for want of memory. It passes.
var ErrCrowded = errors.New("there is no memory free to read it now, which passes: try again, or see limits.memory")

// SpooledMail is one spooled mail as far as an operator reads it.
type SpooledMail struct {
	spool.Entry
	MailID     uuid.UUID         `json:"mail_id"` // the one of the 250 reply
	ReceivedAt time.Time         `json:"received_at"`
	ClientIP   netip.Addr        `json:"client_ip,omitzero"`
	Helo       string            `json:"helo,omitempty"`
	User       string            `json:"user,omitempty"`
	TLS        string            `json:"tls,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"` // AMQP's, of the configuration

	// Content is the mail, octet for octet. It is the last: see WriteJSON.
	Content []byte `json:"content"`
}

// Mail returns one spooled mail, its content a copy. Its errors are Show's.
func (o *Spooled) Mail(ctx context.Context, id uuid.UUID) (m SpooledMail, err error) {
	err = o.Show(ctx, id, func(shown *SpooledMail) error {
		m = *shown
		m.Content = slices.Clone(m.Content)
		return nil
	})
	return m, err
}

// Show has each read one spooled mail, whose content is held within limits.memory until each returns. It waits for memory, and for
// those who read others, until ctx ends, and for half a minute: then the error is ErrCrowded. One that is spool.ErrNotFound tells that
// there is none of that id.
func (o *Spooled) Show(ctx context.Context, id uuid.UUID, each func(*SpooledMail) error) error {
	patience := time.NewTimer(showPatience)
	defer patience.Stop()
	select {
	case o.g.showing <- struct{}{}:
		defer func() { <-o.g.showing }()
	case <-patience.C:
		return ErrCrowded
	case <-o.g.store.ctx.Done():
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		d, e, err := o.read(ctx, id)
		if errors.Is(err, memory.ErrExhausted) {
			select {
			case <-patience.C:
				return fmt.Errorf("%s: %w", id, ErrCrowded)
			default:
				continue // read has waited
			}
		}
		if err != nil {
			return err
		}
		defer d.Content.Release()
		o.explain(&e)
		return each(&SpooledMail{
			Entry: e, MailID: d.Envelope.ID, ReceivedAt: d.Envelope.ReceivedAt, ClientIP: d.Envelope.ClientIP,
			Helo: d.Envelope.Helo, User: d.Envelope.User, TLS: d.Envelope.TLS, Headers: d.Headers,
			Content: d.Content.Octets(),
		})
	}
}

// read reads a mail from whichever spool has it. Its content is the caller's to release.
func (o *Spooled) read(ctx context.Context, id uuid.UUID) (d *mail.Delivery, e spool.Entry, err error) {
	spools, release := o.g.store.hold()
	defer release()
	err = errStopping // where no spool is open any more
	for _, s := range spools {
		if d, e, err = s.Read(ctx, id); !errors.Is(err, spool.ErrNotFound) {
			break
		}
	}
	return d, e, err
}

// shownPiece is the octets of content that WriteJSON encodes at once: whole triples.
const shownPiece = 3 << 16

// WriteJSON writes m as json.Marshal has it, and a newline, and never has more than a piece of the content encoded. It calls before,
// whose error ends it, ahead of each piece.
func (m *SpooledMail) WriteJSON(w io.Writer, before func() error) error {
	bare := *m
	bare.Content = []byte{}
	head, err := json.Marshal(&bare)
	if err != nil {
		return err
	}
	end := []byte(`"}`)
	piece := bytes.TrimSuffix(head, end)
	for some := range slices.Chunk(m.Content, shownPiece) {
		piece = base64.StdEncoding.AppendEncode(piece, some)
		if err := before(); err != nil {
			return err
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		piece = piece[:0]
	}
	if err := before(); err != nil {
		return err
	}
	_, err = w.Write(append(append(piece, end...), '\n'))
	return err
}
