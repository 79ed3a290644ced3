package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

var (
	// ErrNotFound tells that no such file waits in the spool: it may just have been delivered.
	ErrNotFound = fmt.Errorf("not in the spool: %w", fs.ErrNotExist)
	// ErrBusy tells that a file is being published, or that its publish is not decided yet.
	ErrBusy = errors.New("being published")
	// ErrNoDestination tells that one of LSMTPD's own files has to be given a destination first.
	ErrNoDestination = errors.New("it does not say where to: give it a destination")
)

// Read returns a delivery that waits, and what is known of it. Content is the mail itself in either format, and the caller's to
// release. It waits for memory until ctx ends, and no longer than 5 s: then the error is memory.ErrExhausted.
func (s *Spool) Read(ctx context.Context, id uuid.UUID) (*mail.Delivery, Entry, error) {
	entry, err := s.describe(ctx, id)
	if err != nil {
		return nil, Entry{}, err
	}
	d, err := s.loadAny(ctx, entry.ID, entry.NoDestination, textAndMail-1)
	if err != nil {
		return nil, Entry{}, fmt.Errorf("spool: %s: %w", id, err)
	}
	if !d.Encoded {
		d.Content.HeldBy(d.Content.Unheld(), 0)
		return d, entry, nil
	}
	defer d.Content.Release()
	decoded, err := mail.Decode(d.Content.Octets())
	if err != nil {
		return nil, Entry{}, fmt.Errorf("spool: %s: %w", id, err)
	}
	decoded.Exchange, decoded.RoutingKey, decoded.Format, decoded.Headers, decoded.SpooledAt = d.Exchange, d.RoutingKey, d.Format, d.Headers, d.SpooledAt
	decoded.Content.HeldBy(d.Content.Unheld(), 0)
	return decoded, entry, nil
}

func (s *Spool) loadAny(ctx context.Context, id uuid.UUID, isStray bool, copies int) (*mail.Delivery, error) {
	if isStray {
		return s.loadStray(ctx, id, copies)
	}
	return s.load(ctx, id, copies)
}

// hold takes a file into the caller's hands, so that nobody else touches it until release. It returns whose it was.
func (s *Spool) hold(id uuid.UUID) (*entry, state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index.byID.get(id)
	switch {
	case s.closed:
		return nil, 0, ErrClosed
	case e == nil || e.state == removing || e.state == unreadable:
		return nil, 0, fmt.Errorf("spool: %s: %w", id, ErrNotFound)
	case e.state == writing || e.state == held || e.state == trying:
		return nil, 0, fmt.Errorf("spool: %s: %w", id, ErrBusy)
	}
	was := e.state
	s.index.move(e, trying)
	return e, was, nil
}

// Waits tells whether the file of id is in the spool, and not just confirmed or removed.
func (s *Spool) Waits(id uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index.byID.get(id)
	return e != nil && e.state != removing && e.state != unreadable && e.settled != gone
}

// Destination returns where the file of id goes, as far as that is known.
func (s *Spool) Destination(id uuid.UUID) (to Destination, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index.byID.get(id)
	if e == nil || e.state == stray || e.blind {
		return to, false
	}
	return Destination{e.to.exchange, e.to.key}, true
}

// release gives a file back into the hands it came from.
func (s *Spool) release(e *entry, to state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.settled == gone {
		s.index.move(e, removing)
		signal(s.sweep)
		return
	}
	s.index.move(e, to)
	signal(s.wake)
}

// Remove deletes a file for good, on an operator's word; it is gone when Remove returns nil. ErrBusy: not while it is being published.
func (s *Spool) Remove(id uuid.UUID) error {
	e, was, err := s.hold(id)
	if err != nil {
		return err
	}
	err = s.dir.remove(fileName(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.release(e, was)
		return fmt.Errorf("spool: %w", err)
	}
	s.mu.Lock()
	s.index.forget(e)
	s.mu.Unlock()
	if err := s.commits.wait(); err != nil {
		return fmt.Errorf("spool: %s is removed, but a crash may bring it back: %w", id, err)
	}
	return nil
}

// Retry makes files due at once, whatever their back-off: those named before all others, or all where none is named. It wakes the
// replay and does not wait for it. Those that are not there are passed over.
func (s *Spool) Retry(ids ...uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(ids) == 0 {
		for s.index.waiting.Len() > 0 {
			s.index.move(s.index.waiting.first().e, ready)
		}
		for s.index.resting.Len() > 0 {
			s.index.rest(s.index.resting.first(), 0)
		}
	}
	for _, id := range ids {
		e := s.index.byID.get(id)
		if e == nil || e.state != ready && e.state != waiting {
			continue
		}
		s.index.leave(e, ready)
		e.urgent = true
		s.index.enter(e, ready)
		s.index.rest(e.to, 0)
	}
	signal(s.wake)
}

// Redirect makes to the destination of a file from now on, on an operator's word: the file is written anew, with its spooling time and
// the destination of before, and is due at once. One of LSMTPD's own becomes one of ours. ErrBusy: not while it is being published. It
// waits for memory as Read does.
func (s *Spool) Redirect(ctx context.Context, id uuid.UUID, to Destination) error {
	e, was, err := s.hold(id)
	if err != nil {
		return err
	}
	size, err := s.rewrite(ctx, e.id, was == stray, to)
	if err != nil {
		s.mu.Lock()
		s.failed(err)
		s.mu.Unlock()
		s.release(e, was)
		return fmt.Errorf("spool: %s: %w", id, err)
	}
	s.mu.Lock()
	s.index.resize(e, size)
	s.index.redirect(e, to.Exchange, to.RoutingKey)
	e.urgent = true
	s.mu.Unlock()
	s.release(e, ready)
	return nil
}

// rewrite writes the file of id anew, for another destination, and returns its size.
func (s *Spool) rewrite(ctx context.Context, id uuid.UUID, isStray bool, to Destination) (int64, error) {
	d, err := s.loadAny(ctx, id, isStray, 0)
	if err != nil {
		return 0, err
	}
	defer d.Content.Release()
	before := Destination{d.Exchange, d.RoutingKey}
	d.Exchange, d.RoutingKey = to.Exchange, to.RoutingKey
	if err := d.Check(); err != nil {
		return 0, err
	}
	h, _, err := newHead(d, d.SpooledAt)
	if err != nil {
		return 0, err
	}
	if !isStray && before != to {
		h.AcceptedFor = &before
	}
	old, _, err := s.look(id)
	if err != nil && !isStray {
		return 0, err
	}
	if old.AcceptedFor != nil {
		h.AcceptedFor = old.AcceptedFor
	}
	text, err := h.text()
	if err != nil {
		return 0, err
	}
	size := int64(len(text)) + d.JSONSize()
	return size, s.replace(fileName(id), func(f file) error { return encode(f, d, text, size) })
}

// Try has one file published now, whatever its back-off, and does with it what the verdict says, as Replay does. The error is
// try's, ErrNotFound, ErrBusy, ErrNoDestination, memory.ErrExhausted, or why the file cannot be read.
func (s *Spool) Try(ctx context.Context, id uuid.UUID, try func(context.Context, *mail.Delivery) (Verdict, error)) (Verdict, error) {
	e, was, err := s.hold(id)
	if err != nil {
		return Later, err
	}
	if was == stray {
		s.release(e, was)
		return Later, fmt.Errorf("spool: %s: %w", id, ErrNoDestination)
	}
	s.mu.Lock()
	e.settled, e.tried = open, true
	s.index.rest(e.to, 0)
	s.mu.Unlock()
	verdict, err := s.one(ctx, id, try)
	s.tried(result{e: e, verdict: verdict, err: err})
	if verdict == unloaded || verdict == crowded {
		return Later, fmt.Errorf("spool: %s: %w", id, err)
	}
	return verdict, err
}
