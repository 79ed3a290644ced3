package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Entry is one delivery of the spool, as an operator sees it.
type Entry struct {
	ID            uuid.UUID    `json:"id"`
	SpooledAt     time.Time    `json:"spooled_at"`
	Size          int64        `json:"size"` // octets of the file
	Listener      string       `json:"listener"`
	Sender        string       `json:"sender"`
	Recipients    []string     `json:"recipients"`
	Exchange      string       `json:"exchange"`
	RoutingKey    string       `json:"routing_key"`
	Format        string       `json:"format"`
	Attempts      int          `json:"attempts"`                 // that failed, since the daemon started
	LastError     string       `json:"last_error,omitempty"`     // of the last attempt
	Waits         string       `json:"waits,omitempty"`          // why it is not tried though nothing is wrong with it: its destination takes none
	NextTry       time.Time    `json:"next_try,omitzero"`        // not before; zero: as soon as its turn comes
	NoDestination bool         `json:"no_destination,omitempty"` // one of LSMTPD's own, which does not say where to
	NoHead        bool         `json:"no_head,omitempty"`        // the file was never read: Listener, Exchange and RoutingKey are not known
	NoEnvelope    bool         `json:"no_envelope,omitempty"`    // the file cannot be read now: Sender, Recipients and Format are not known
	AcceptedFor   *Destination `json:"accepted_for,omitempty"`   // where it went before an operator gave it another destination
}

// Entries returns what waits for the broker and LSMTPD's own files, oldest first, when what lay there at start is known, and what was put there since. What comes
// or goes meanwhile may be missing. Of a file that cannot be read the error is told beside what is known of it, and the next one
// follows; it ends with ctx's error.
func (s *Spool) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return s.EntriesOf(ctx, func(uuid.UUID) bool { return true })
}

// EntriesOf is Entries for those ids only that are wanted. It reads no other file.
func (s *Spool) EntriesOf(ctx context.Context, wanted func(uuid.UUID) bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s.Look(ctx)
		for _, at := range s.byAge() {
			if ctx.Err() != nil {
				break
			}
			if s.ending() {
				yield(Entry{}, ErrClosed)
				return
			}
			if !wanted(at.id) {
				continue
			}
			entry, err := s.describe(ctx, at.id)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if !yield(entry, err) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// aged is a file and its age: all that a list of a million of them holds at once.
type aged struct {
	id      uuid.UUID
	spooled int64
}

// byAge returns the files that Entries lists, oldest first.
func (s *Spool) byAge() []aged {
	s.mu.Lock()
	all := make([]aged, 0, s.index.byAge.Len()+s.index.count[stray])
	s.index.byID.each(func(e *entry) {
		if e.listed() {
			all = append(all, aged{e.id, e.spooled})
		}
	})
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b aged) int {
		if a.spooled != b.spooled {
			return int(min(max(a.spooled-b.spooled, -1), 1))
		}
		return bytes.Compare(a.id[:], b.id[:])
	})
	return all
}

// listed tells whether an operator sees e.
func (e *entry) listed() bool { return e.state.pending() || e.state == stray }

// describe returns the Entry of a file.
func (s *Spool) describe(ctx context.Context, id uuid.UUID) (Entry, error) {
	s.mu.Lock()
	e := s.index.byID.get(id)
	if e == nil || !e.listed() {
		s.mu.Unlock()
		return Entry{}, fmt.Errorf("spool: %s: %w", id, ErrNotFound)
	}
	entry := Entry{
		ID: id, SpooledAt: time.Unix(0, e.spooled).UTC(), Size: e.size, Listener: e.from.name,
		Exchange: e.to.exchange, RoutingKey: e.to.key, Attempts: int(e.attempts), NoDestination: e.state == stray, NoHead: e.blind,
	}
	if f := s.index.failures[e]; f != nil {
		entry.LastError = f.why
	} else if e.to.why != "" && e.state.pending() {
		entry.Waits = "another mail goes first, which did not get through: " + e.to.why
	}
	if due := s.dueOf(e); due != 0 {
		entry.NextTry = s.began.Add(time.Duration(due))
	}
	s.mu.Unlock()
	err := s.readEnvelope(ctx, &entry)
	if err != nil {
		entry.NoEnvelope, entry.Sender, entry.Recipients, entry.Format = true, "", nil, ""
	}
	if errors.Is(err, fs.ErrNotExist) {
		return entry, fmt.Errorf("spool: %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return entry, fmt.Errorf("spool: %s: %w", id, err)
	}
	return entry, nil
}

// dueOf returns when e may be tried next; 0 for at once, or where it does not wait. s.mu is held.
func (s *Spool) dueOf(e *entry) int64 {
	switch e.state {
	case waiting:
		return max(s.index.failures[e].due, e.to.due)
	case ready:
		return e.to.due
	}
	return 0
}

// summary is what an operator wants to see of a payload.
type summary struct {
	Recipients []string
	Sender     string
}

// lastLook is how many octets of a file's end are read for the sender, who comes behind the mail.
const lastLook = 4 << 10

// readEnvelope reads of a file who sent the mail and to whom, and leaves the mail alone where it can.
func (s *Spool) readEnvelope(ctx context.Context, e *Entry) error {
	f, err := s.dir.open(fileName(e.ID))
	if err != nil {
		return err
	}
	defer f.Close()
	if !e.NoDestination {
		h, payload, err := readHead(f)
		if err != nil {
			return err
		}
		e.AcceptedFor = h.AcceptedFor
		if e.NoHead {
			e.NoHead, e.Listener, e.Exchange, e.RoutingKey, e.SpooledAt = false, h.Listener, h.Exchange, h.RoutingKey, h.SpooledAt
		}
		if e.Format = h.Format; skim(f, int64(payload), e) {
			return nil
		}
	}
	return s.decodeEnvelope(ctx, e)
}

// skim reads the keys before the mail and those behind it. It tells whether it found what it looked for.
func skim(f source, payload int64, e *Entry) bool {
	size := f.size()
	d := json.NewDecoder(io.MultiReader(bytes.NewReader([]byte("{")), io.NewSectionReader(f, payload+1, size-payload-1)))
	if _, err := d.Token(); err != nil {
		return false
	}
	for {
		key, err := d.Token()
		if err != nil || key == "email_content" {
			break
		}
		var value any = &json.RawMessage{}
		if key == "recipients" {
			value = &e.Recipients
		}
		if d.Decode(value) != nil {
			return false
		}
	}
	tail := make([]byte, min(lastLook, size))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	// Within the mail, a string, every quotation mark has a backslash before it: this one is the key's.
	at := bytes.LastIndex(tail, []byte(`,"sender":`))
	if at < 0 {
		return false
	}
	tail[at] = '{'
	var end summary
	if json.Unmarshal(bytes.TrimRight(tail[at:], " \t\r\n"), &end) != nil {
		return false
	}
	e.Sender = end.Sender
	return e.Recipients != nil
}

// decodeEnvelope reads a file as a whole: one that a person has written anew, or LSMTPD's own.
func (s *Spool) decodeEnvelope(ctx context.Context, e *Entry) error {
	d, err := s.loadAny(ctx, e.ID, e.NoDestination, 0)
	if err != nil {
		return err
	}
	defer d.Content.Release()
	e.Format, e.Sender, e.Recipients = d.Format, d.Envelope.Sender.String(), make([]string, len(d.Recipients))
	for i := range d.Recipients {
		e.Recipients[i] = d.Recipients[i].String()
	}
	return nil
}
