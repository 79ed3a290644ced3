package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

// Spooled is the spooled mail in an operator's hands: that of a running gateway, or of a directory that no daemon has open.
type Spooled struct {
	g    *Gateway
	stop func() // what Connect began; nil where nothing is to be stopped
}

// Spooled returns the gateway's spooled mail: that of the spool in use, and of those before it that still hold some.
func (g *Gateway) Spooled() *Spooled { return &Spooled{g: g} }

// OpenSpooled opens the spool at dir, and those before it that may still hold mail, as a daemon does: it makes dir where it is missing
// and locks them. Nothing is replayed until somebody asks. memory is as limits.memory:
// a quarter of it is for mail that is read back. Close gives them up.
func OpenSpooled(dir string, memory int64) (*Spooled, error) {
	g := New(Options{Log: slog.New(slog.DiscardHandler)})
	g.limitMemory(memory)
	g.store.patience = 0 // the daemon would answer
	c, err := g.store.openFor(dir, spool.Limits{})
	if err != nil {
		return nil, err
	}
	g.store.spools, g.store.lost = append([]*directory{c.dir}, c.opened...), c.lost
	return &Spooled{g: g}, nil
}

// Unreached tells of mail that OpenSpooled could not reach.
func (o *Spooled) Unreached() []string { return Unreached(o.g.store.status()) }

// answersBy is below what the publisher's first attempt waits for an answer: one that fails sooner did not fail of that.
const answersBy = 400 * time.Millisecond

// Connect gives an opened spool the broker of c, whose answer it awaits for amqp.connect_timeout at each address. Its error is ErrAway
// and says why no mail can be sent.
func (o *Spooled) Connect(ctx context.Context, c *config.Config) error {
	p, begun := o.g.publisher, time.Now()
	change, err := p.Prepare(ctx, &c.AMQP)
	if err != nil {
		return err
	}
	if change.Warning != nil && time.Since(begun) < answersBy {
		return fmt.Errorf("%w: %w", ErrAway, change.Warning) // refused: to wait would not mend it
	}
	change.Commit()
	o.g.running.Store(&running{table: &routes.Table{Config: c}})
	background, stop := context.WithCancel(context.Background())
	var publisher sync.WaitGroup
	publisher.Go(func() { p.Run(background) })
	o.stop = func() { stop(); publisher.Wait() }
	if c.AMQP.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(len(c.AMQP.URLs))*c.AMQP.ConnectTimeout)
		defer cancel()
	}
	if p.AwaitAvailable(ctx) != nil {
		return o.away()
	}
	return nil
}

// Close ends what OpenSpooled and Connect began. No call of another method may be under way.
func (o *Spooled) Close() error {
	o.g.store.stopReplay()
	if o.stop != nil {
		o.stop()
	}
	return o.g.store.close()
}

// Entries returns the mail that f means, oldest first, one spool after the other. Where a mail cannot be read its
// LastError says so. It ends with the first other error.
func (o *Spooled) Entries(ctx context.Context, f *Filter) iter.Seq2[spool.Entry, error] {
	now := time.Now()
	return inEach(o, func(s *spool.Spool, yield func(spool.Entry, error) bool) bool {
		for e, err := range s.EntriesOf(ctx, f.matchID) {
			if err != nil && e.ID != uuid.Nil {
				e.LastError, err = err.Error(), nil
			}
			o.explain(&e)
			if err == nil && !f.Match(&e, now) {
				continue
			}
			if !yield(e, err) || err != nil {
				return false
			}
		}
		return true
	})
}

// explain notes on e why nothing is published to its destination.
func (o *Spooled) explain(e *spool.Entry) {
	if e.NoDestination || e.NoHead {
		return
	}
	if fault := o.g.publisher.Fault(publish.Destination{Exchange: e.Exchange, RoutingKey: e.RoutingKey}); fault != nil {
		e.Waits = fault.Error()
	}
}

// Bad returns the files that could not be read, and were put aside. It ends with the first error.
func (o *Spooled) Bad(ctx context.Context) iter.Seq2[spool.BadEntry, error] {
	return inEach(o, func(s *spool.Spool, yield func(spool.BadEntry, error) bool) bool {
		for e, err := range s.Bad(ctx) {
			if !yield(e, err) || err != nil {
				return false
			}
		}
		return true
	})
}

// inEach yields what each finds in one spool after the other, the one in use last, until each returns false, or the spools are closed:
// what each finds then is not to be believed.
func inEach[T any](o *Spooled, each func(s *spool.Spool, yield func(T, error) bool) bool) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		spools, release := o.g.store.hold()
		defer release()
		stopping := false
		open := func(v T, err error) bool {
			if stopping = o.g.store.ctx.Err() != nil; stopping {
				return false
			}
			return yield(v, err)
		}
		for _, d := range slices.Backward(spools) {
			if !each(d.Spool, open) {
				break
			}
		}
		if stopping || len(spools) == 0 {
			yield(none, errStopping)
		}
	}
}

// removedAtOnce is how many files share a sync of their directory. More would slow those who write.
const removedAtOnce = 32

// Remove takes mail off the disk for good, and tells each what became of every one of ids. What is being published is awaited, and
// told last. It ends early with ctx's error or the first of each.
func (o *Spooled) Remove(ctx context.Context, ids []uuid.UUID, each func(Outcome) error) error {
	for patience := time.Now().Add(busyPatience); len(ids) > 0; {
		last := time.Now().After(patience)
		var busy []uuid.UUID
		err := o.removeAll(ctx, ids, func(outcome Outcome) error {
			if outcome.Result == Busy && !last {
				busy = append(busy, outcome.ID)
				return nil
			}
			return each(outcome)
		})
		if err != nil {
			return err
		}
		if len(busy) < len(ids) {
			patience = time.Now().Add(busyPatience)
		}
		if ids = busy; len(ids) == 0 {
			break
		}
		select {
		case <-time.After(busyPoll):
		case <-ctx.Done():
			return ctx.Err()
		case <-o.g.store.ctx.Done():
			return errStopping
		}
	}
	return nil
}

// removeAll tries once to remove each of ids.
func (o *Spooled) removeAll(ctx context.Context, ids []uuid.UUID, each func(Outcome) error) error {
	for some := range slices.Chunk(ids, removedAtOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		outcomes := make([]Outcome, len(some))
		var removing sync.WaitGroup
		for i, id := range some {
			removing.Go(func() { outcomes[i] = o.remove(id) })
		}
		removing.Wait()
		for _, outcome := range outcomes {
			if err := each(outcome); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Spooled) remove(id uuid.UUID) Outcome {
	spools, release := o.g.store.hold()
	defer release()
	for _, d := range spools {
		switch err := d.Remove(id); {
		case errors.Is(err, spool.ErrNotFound):
		case errors.Is(err, spool.ErrBusy):
			return Outcome{ID: id, Result: Busy, Reason: err.Error()}
		case err != nil:
			return Outcome{ID: id, Result: Failed, Reason: err.Error()}
		default:
			return Outcome{ID: id, Result: Removed}
		}
	}
	if len(spools) == 0 {
		return Outcome{ID: id, Result: Failed, Reason: errStopping.Error()}
	}
	return Outcome{ID: id, Result: Gone}
}

// hold returns the open spools, the one in use first, which stay open until release.
func (s *store) hold() (spools []*directory, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.spools {
		if d.closed == nil {
			d.puts++
			spools = append(spools, d)
		}
	}
	return spools, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range spools {
			d.puts--
		}
	}
}
