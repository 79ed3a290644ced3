package spool

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
)

// Verdict says what became of one replayed delivery.
type Verdict int

// The verdicts of a replay.
const (
	Done      Verdict = iota // confirmed: the file is removed
	Later                    // it failed for its own reason: kept, tried again after 5 s at first, 10 min at last
	Stop                     // the broker is away: kept, and this Replay ends
	Undecided                // published, and not confirmed in time: not tried again before Settle says what became of it; else as Returned
	Returned                 // no queue takes it, or has room: as Later, and what else goes to that exchange and key waits behind one file
)

const (
	maxWindow    = 64       // deliveries tried at once
	maxInFlight  = 64 << 20 // octets of their files; a larger file goes alone
	firstBackOff = 5 * time.Second
	maxBackOff   = 10 * time.Minute
)

// Replay tries what is ready, oldest first: the first one alone, then more at once for each that went well. It calls try from
// several goroutines; the delivery's Content is released when try returns. What becomes ready meanwhile is tried too: Replay returns
// only when ctx ends, with its error, or after a Stop, with try's. By then no try runs. A second Replay waits for the first to return.
func (s *Spool) Replay(ctx context.Context, try func(context.Context, *mail.Delivery) (Verdict, error)) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.indexed: // before that nobody knows the oldest
	case <-ctx.Done():
		return ctx.Err()
	}
	r := &replay{s: s, try: try, window: 1, results: make(chan result)}
	return r.run(ctx)
}

// replay is one call of Replay. Only its goroutine touches it.
type replay struct {
	s       *Spool
	try     func(context.Context, *mail.Delivery) (Verdict, error)
	results chan result
	pace    pace
	window  int // deliveries that may be tried at once
	running int
	octets  int64 // of the files being tried
	ended   bool
	err     error
}

type result struct {
	e       *entry
	verdict Verdict
	err     error
	began   time.Duration // on the Spool's clock
}

func (r *replay) run(ctx context.Context) error {
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	done := ctx.Done()
	for {
		if !r.ended {
			timer.Reset(r.begin(ctx))
		}
		if r.ended && r.running == 0 {
			return r.err
		}
		select {
		case got := <-r.results:
			r.end(got)
		case <-r.s.wake:
		case <-timer.C:
		case <-done:
			done = nil
			r.stop(ctx.Err())
		}
	}
}

// begin tries as many as window and pace have room for, and returns how long until there may be more to try.
func (r *replay) begin(ctx context.Context) time.Duration {
	for {
		if r.running >= r.window {
			return math.MaxInt64 // a result comes before
		}
		e, wait := r.take()
		if e == nil {
			return wait
		}
		r.running++
		r.octets += e.size
		go func() {
			began := time.Duration(r.s.clock())
			verdict, err := r.s.one(ctx, e.id, r.try)
			r.results <- result{e, verdict, err, began}
		}()
	}
}

// take returns a file that may be tried now; nil where there is none, and how long until there may be one.
func (r *replay) take() (*entry, time.Duration) {
	room := maxInFlight - r.octets
	if r.running == 0 {
		room = math.MaxInt64
	}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	due := s.index.wakeUp(now)
	if s.index.order.Len() > 0 {
		t := traffic{live: s.broker.Live(), busy: s.broker.Busy()}
		if t.live {
			if r.window = 1; r.running > 0 {
				return nil, math.MaxInt64 // its result comes before
			}
		}
		if wait := r.pace.wait(time.Duration(now), s.limits.ReplayRate, t); wait > 0 {
			r.window = min(r.window, 1+r.running) // live mail or the rate bounds it: no rush when that ends
			return nil, wait
		}
	}
	e := s.index.next(now, room, s.broker.Unusable)
	switch {
	case e != nil:
		e.settled, e.tried = open, true // what Settle said was of an earlier publish
		r.pace.went(time.Duration(now), s.limits.ReplayRate)
		return e, 0
	case s.index.resting.Len() > 0: // next may have put more there
		due = s.index.wakeUp(now)
	}
	if due == 0 {
		return nil, math.MaxInt64
	}
	return nil, time.Duration(due - now)
}

// one reads a file and tries it.
func (s *Spool) one(ctx context.Context, id uuid.UUID, try func(context.Context, *mail.Delivery) (Verdict, error)) (Verdict, error) {
	d, err := s.load(ctx, id, 0)
	switch {
	case errors.Is(err, memory.ErrExhausted):
		return crowded, err
	case err != nil && ctx.Err() != nil:
		return Stop, err
	case err != nil:
		return unloaded, err
	}
	defer d.Content.Release()
	verdict, err := try(ctx, d)
	if (verdict == Later || verdict == Returned) && ctx.Err() != nil {
		return Stop, err // cut off, which is not the delivery's fault
	}
	return verdict, err
}

// Verdicts on files that try was not asked about.
const (
	unloaded Verdict = -1 - iota
	crowded          // there was no memory for it in time
)

func (r *replay) end(got result) {
	r.running--
	r.octets -= got.e.size
	r.pace.came(time.Duration(r.s.clock()), got.began)
	switch got.verdict {
	case Done:
		r.window = min(r.window+1, maxWindow)
	case crowded:
		r.window = 1
	case Stop:
		r.stop(got.err)
	}
	r.s.tried(got)
}

func (r *replay) stop(err error) {
	if !r.ended {
		r.ended, r.err = true, err
	}
}

// tried puts a file where its result says.
func (s *Spool) tried(got result) {
	e := got.e
	aside := got.verdict == unloaded && errors.Is(got.err, errUnreadable) && s.quarantine(e.id, got.err)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case aside:
		s.index.bad++
		s.index.forget(e)
	case got.verdict == Done || e.settled == gone:
		if got.verdict == Done {
			s.index.passed(e.to)
		}
		e.settled = gone
		s.index.move(e, removing)
		signal(s.sweep)
	case got.verdict == Stop:
		s.index.move(e, ready)
	case got.verdict == crowded:
		s.index.crowdedOut(e, s.clock())
		signal(s.wake)
	case got.verdict == Undecided && e.settled == open:
		s.index.returned(e.to, s.index.note(e, got.err).why, s.clock()) // the others would wait as long, in the window's places of those that are confirmed
		s.index.move(e, held)
	case got.verdict == Returned:
		s.index.returned(e.to, s.index.note(e, got.err).why, s.clock())
		s.postpone(e, got.err)
	case got.verdict == Later, got.verdict == Undecided:
		s.postpone(e, got.err)
	case errors.Is(got.err, fs.ErrNotExist):
		s.log.Warn("a spool file is gone: somebody took it", "dir", s.path, "file", fileName(e.id))
		s.index.forget(e)
	case errors.Is(got.err, errUnreadable):
		s.index.move(e, unreadable)
	default:
		s.noteError(got.err)
		s.log.Warn("a spool file cannot be read now", "dir", s.path, "file", fileName(e.id), "error", got.err)
		s.postpone(e, got.err)
	}
}

// postpone lets e, which was tried in vain, wait for its back-off, which wakes the replay when it is over. s.mu is held.
func (s *Spool) postpone(e *entry, why error) {
	s.index.fail(e, why, s.clock())
	signal(s.wake)
}
