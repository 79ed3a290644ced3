package spool

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Limits bound what a Spool takes and how fast a replay goes. They may change at any time; the zero Limits is none.
type Limits struct {
	MaxBytes   int64            // octets of files that wait; 0: no limit
	MinFree    int64            // octets that stay free on the file system
	Listeners  map[string]int64 // by name, the octets of its files that wait; 0, or not there: no limit. It is not changed
	ReplayRate int              // files a second; 0: no limit
}

// Broker is what a Spool asks about the broker. It is asked with locks held: the answers are there at once.
type Broker interface {
	Available() bool               // mail is taken now
	Live() bool                    // live mail is under way: a replay tries one file at a time, and rests after each
	Busy() bool                    // live mail waits for its turn: a replay goes slowly
	Unusable(exchange string) bool // nothing may be published there now: a replay passes it over
}

// nobody is the broker of a Spool that was given none.
type nobody struct{}

func (nobody) Available() bool      { return false }
func (nobody) Live() bool           { return false }
func (nobody) Busy() bool           { return false }
func (nobody) Unusable(string) bool { return false }

// SetLimits puts l in force.
func (s *Spool) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
	signal(s.wake)
}

// begin enters a file of size octets into the index before it has a name, so that who reads the directory meanwhile leaves it alone.
// It waits until the file may be written. Nothing is written yet: here whoever is over a limit is told so.
func (s *Spool) begin(id uuid.UUID, h *head, size int64) (*entry, *turn, error) {
	e, w, err := s.awaitTurn(id, h, size)
	if err != nil {
		return nil, nil, err
	}
	in, err := s.room(h.Listener)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.noteWrite(err)
		err = classify(err)
	}
	if err == nil {
		err = s.admit(e.from, size, in)
	}
	if err != nil {
		s.noteRefusal(err)
		s.refuse(e)
		s.endTurn(w)
		return nil, nil, err
	}
	e.size = size
	e.from.octets += size
	s.index.reserved += size
	return e, w, nil
}

// awaitTurn returns when a file of size octets may be written. The turn is the caller's to end.
func (s *Spool) awaitTurn(id uuid.UUID, h *head, size int64) (*entry, *turn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	if s.index.byID.get(id) != nil {
		return nil, nil, fmt.Errorf("%s is there already", id)
	}
	e := s.index.entry(id, h)
	s.index.byID.put(e)
	w := s.turns.ask(e.from, size, s.broker.Available())
	s.mu.Unlock()
	select {
	case <-w.come:
	case <-s.closing:
	}
	s.mu.Lock()
	select {
	case <-w.come:
		return e, w, nil
	default:
		s.turns.leave(w)
		s.refuse(e)
		return nil, nil, ErrClosed
	}
}

// refuse takes e, which is not written, out of the index. s.mu is held.
func (s *Spool) refuse(e *entry) {
	s.index.byID.remove(e)
	s.index.drop(e)
}

// endTurn lets the next ones write. s.mu is held.
func (s *Spool) endTurn(w *turn) {
	s.turns.end(w, s.broker.Available())
	if s.turns.writing == 0 {
		s.quiet.Broadcast()
	}
}

// Usage is what counts against MaxBytes, and a listener's part of it.
type Usage struct{ Octets, Listener int64 }

// Usage returns what waits here, or is being written.
func (s *Spool) Usage(listener string) Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := Usage{Octets: s.index.octets + s.index.reserved}
	if o := s.index.origins[listener]; o != nil {
		u.Listener = o.octets
	}
	return u
}

// room is what bounds a file besides what this Spool holds.
type room struct {
	astray error // the directory is not at its path
	free   int64 // octets, on the file system
	others Usage
}

// room returns what bounds a file of a listener. No lock is held.
func (s *Spool) room(listener string) (in room, err error) {
	in.astray, in.others = s.dir.placed(), s.beside(listener)
	in.free, err = s.dir.free()
	return in, err
}

// admit tells why no file of size octets is taken from a listener. What lay there at start counts when it is counted; until then
// only the file system's room does. s.mu is held.
func (s *Spool) admit(o *origin, size int64, in room) error {
	if s.place(in.astray); s.astray != nil {
		return fmt.Errorf("%w: %w", ErrFull, s.astray)
	}
	if s.failing != nil {
		return fmt.Errorf("%w: the disk failed, and no test of it has passed since: %w", ErrFull, s.failing)
	}
	if l := s.limits.MinFree; l > 0 && in.free-s.index.reserved-size < l {
		return fmt.Errorf("%w: %d octets are free on the file system, and spool.min_free is %d", ErrFull, in.free, l)
	}
	select {
	case <-s.indexed:
	default:
		return nil
	}
	if l := s.limits.MaxBytes; l > 0 && in.others.Octets+s.index.octets+s.index.reserved+size > l {
		return fmt.Errorf("%w: spool.max_bytes of %d is reached", ErrFull, l)
	}
	if l := s.limits.Listeners[o.name]; l > 0 && in.others.Listener+o.octets+size > l {
		return fmt.Errorf("%w: spool_max_bytes of listener %q, %d, is reached", ErrFull, o.name, l)
	}
	return nil
}

// written ends what begin began.
func (s *Spool) written(e *entry, w *turn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.endTurn(w)
	s.index.reserved -= e.size
	e.from.octets -= e.size
	s.noteWrite(err)
	if err != nil {
		s.noteRefusal(err)
		s.refuse(e)
		s.failed(err)
		return
	}
	s.index.add(e, held)
	if e.settled != open {
		s.settle(e, e.settled)
	}
}

// place takes in whether the directory is at its path. s.mu is held.
func (s *Spool) place(astray error) {
	was := s.astray
	s.astray = astray
	switch {
	case astray != nil && was == nil:
		s.log.Error("the spool directory is not at its path: no mail is taken into it until it is back", "dir", s.path, "error", astray)
	case astray == nil && was != nil:
		s.log.Info("the spool directory is at its path again", "dir", s.path)
	}
}

// probePause is how long after a failure of the disk, and after a probe in vain, it is tried again.
const probePause = time.Second

// failed has no file taken any more after a disk failed to write: what is in its cache may be lost, and a second fsync of the same
// file would call that a success. s.mu is held.
func (s *Spool) failed(err error) {
	if !errors.Is(err, syscall.EIO) || s.failing != nil || s.closed {
		return
	}
	s.failing = err
	s.log.Error("the spool's disk fails: no mail is taken into it until a test of it passes", "dir", s.path, "error", err)
	s.tasks.Go(s.mend)
}

// mend tests the disk until it works again.
func (s *Spool) mend() {
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.closing:
			return
		}
		err := s.probe()
		s.mu.Lock()
		s.noteWrite(err)
		if err == nil {
			s.failing = nil
			s.mu.Unlock()
			s.log.Info("the spool's disk works again", "dir", s.path)
			return
		}
		s.mu.Unlock()
	}
}

// probe writes a file as store does, and leaves nothing.
func (s *Spool) probe() error {
	f, err := s.write(func(f file) error { return writeAll(f, make([]byte, 4<<10)) })
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.commits.wait()
}
