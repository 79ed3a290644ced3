package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

const (
	// maxOperatorWindow is how many deliveries an operator's replay tries at once: few enough for their octets to be held.
	maxOperatorWindow = 16
	// movedAtOnce is how many files that are written anew share a sync of their directory.
	movedAtOnce = 32
	// busyPoll is how often a file that is being published anyway is looked at, and busyPatience how long.
	busyPoll     = 100 * time.Millisecond
	busyPatience = 30 * time.Second
)

// Result is what became of one file that an operator named.
type Result string

// The results of Replay and Remove.
const (
	Delivered Result = "delivered" // confirmed and routed; the file is gone
	Removed   Result = "removed"
	Gone      Result = "gone"      // it was not there any more: delivered, or removed, meanwhile
	Refused   Result = "refused"   // no queue takes it or has room, or its exchange is missing or forbidden; the file stays
	Undecided Result = "undecided" // published and not confirmed in time; the file stays until the broker says more
	Busy      Result = "busy"      // it is being published anyway, or there is no memory for it now; the file stays
	Failed    Result = "failed"    // for another reason; the file stays
	Untried   Result = "untried"   // the broker is away, or the caller was gone; the file stays, and has its new destination
	Moved     Result = "moved"     // it has its new destination and is tried next, of which more is told
)

// Outcome is what became of one file, and for those that stay, why.
type Outcome struct {
	ID     uuid.UUID `json:"id"`
	Result Result    `json:"result"`
	Reason string    `json:"reason,omitempty"`
	Moved  bool      `json:"moved,omitempty"` // it has the destination that it was given
}

// Destination is where an operator sends mail instead of where it was accepted for.
type Destination = spool.Destination

// ErrMissing tells that the broker has no such destination.
var ErrMissing = errors.New("there is no such destination, and nothing is changed")

// ErrAway tells that the broker takes no mail now.
var ErrAway = errors.New("the broker takes no mail")

// Replay publishes the mail that ids name, in that order, whatever its back-off and what the broker said of its destination before,
// and tells each what became of every one; to, unless nil, is where it goes instead, from then on: the files are written anew before the first is tried, and though the broker is away.
// The first goes alone; the more are delivered, the more are tried at once. When ctx ends, or each returns an error, no more are
// begun, and those under way come to their end. An error that is ErrMissing tells that nothing was done; one that is ErrAway tells
// that the broker went away; what was not told of, or only that it is Moved, is in the spool as before, or moved.
func (o *Spooled) Replay(ctx context.Context, ids []uuid.UUID, to *Destination, each func(Outcome) error) error {
	away := o.away()
	if to == nil && away != nil {
		return away
	}
	if to != nil && away == nil {
		if missing := o.g.publisher.Missing(ctx, to.Exchange, to.RoutingKey); missing != nil {
			return fmt.Errorf("%w: %w", ErrMissing, missing)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.g.store.ctx, cancel)()
	if away == nil {
		o.g.publisher.Reconsider(ctx, o.destinations(ids, to))
	}
	r := &operatorReplay{
		g: o.g, to: to, window: 1, waiting: ids, moved: map[uuid.UUID]bool{}, away: away,
		results: make(chan tried), outcomes: make(chan Outcome),
	}
	var leave context.CancelFunc
	r.unheard, leave = context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	defer context.AfterFunc(o.g.store.ctx, func() { time.AfterFunc(stopPatience, leave) })()
	var end error
	if !o.g.store.begin(func() { end = r.run(ctx); close(r.outcomes) }) {
		return errStopping
	}
	var refused error
	for outcome := range r.outcomes {
		if refused == nil {
			refused = each(outcome)
		}
		if refused != nil {
			cancel()
		}
	}
	if refused != nil {
		return refused
	}
	return end
}

// destinations are where the files of ids go, each once: to, unless it is nil.
func (o *Spooled) destinations(ids []uuid.UUID, to *Destination) []publish.Destination {
	if to != nil {
		return []publish.Destination{publish.Destination(*to)}
	}
	spools, release := o.g.store.hold()
	defer release()
	all := map[publish.Destination]struct{}{}
	for _, id := range ids {
		for _, d := range spools {
			if to, there := d.Destination(id); there {
				all[publish.Destination(to)] = struct{}{}
				break
			}
		}
	}
	return slices.Collect(maps.Keys(all))
}

// away tells why no mail can be sent now, nil where it can.
func (o *Spooled) away() error {
	if o.g.publisher.Available() {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrAway, o.g.publisher.Status().Error)
}

var errStopping = errors.New("the daemon is stopping")

// begin has f run as a task that the end of the store's replays waits for, unless they have ended.
func (s *store) begin(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.tasks.Go(f)
	return true
}

// operatorReplay is one call of Replay. Only its task touches it.
type operatorReplay struct {
	g        *Gateway
	to       *Destination
	waiting  []uuid.UUID
	busy     []Outcome   // of those to be looked at again
	untried  []uuid.UUID // begun, and the broker took nothing or the caller was gone
	running  int
	window   int                // how many may run at once
	next     time.Time          // when replay_rate lets another one begin
	moved    map[uuid.UUID]bool // given their new destination, and not told of yet; a daemon's own replay may be faster from then on
	results  chan tried
	outcomes chan Outcome    // to the caller
	unheard  context.Context // ends some time after the store stopped, which must not wait for who reads outcomes
	away     error           // why no more are begun
}

// tried is an Outcome, or why the broker took nothing.
type tried struct {
	Outcome
	moved  bool // it has its new destination
	untold bool // it was not tried
	away   error
}

func (r *operatorReplay) run(ctx context.Context) error {
	r.moveAll(ctx)
	for patience := time.Now().Add(busyPatience); ; {
		for r.away == nil && ctx.Err() == nil && r.running < r.room() && len(r.waiting) > 0 {
			r.begin(ctx, r.waiting[0])
			r.waiting = r.waiting[1:]
		}
		switch {
		case r.running > 0:
			if r.end(<-r.results) {
				patience = time.Now().Add(busyPatience)
			}
		case r.g.store.ctx.Err() != nil:
			r.leave(errStopping.Error())
			return errStopping
		case r.away != nil:
			r.leave(r.away.Error())
			return r.away
		case ctx.Err() != nil:
			r.leave("stopped, as asked")
			return ctx.Err()
		case len(r.busy) == 0:
			return nil
		case time.Now().After(patience):
			for _, outcome := range r.busy {
				outcome.Moved = r.moved[outcome.ID]
				r.tell(outcome)
			}
			return nil
		default:
			select {
			case <-time.After(busyPoll):
			case <-ctx.Done():
			}
			r.waiting, r.busy = append(r.waiting, idsOf(r.busy)...), nil
		}
	}
}

// moveAll gives the files their new destination, but for those that are being published: they get it when they are tried.
func (r *operatorReplay) moveAll(ctx context.Context) {
	if r.to == nil {
		return
	}
	var left []uuid.UUID
	for some := range slices.Chunk(r.waiting, movedAtOnce) {
		if ctx.Err() != nil {
			left = append(left, some...)
			continue
		}
		got := make([]tried, len(some))
		var moving sync.WaitGroup
		for i, id := range some {
			moving.Go(func() { got[i] = r.move(id) })
		}
		moving.Wait()
		for i, id := range some {
			switch {
			case got[i].moved:
				r.moved[id] = true
				left = append(left, id)
				r.tell(Outcome{ID: id, Result: Moved, Moved: true})
			case got[i].Result == Busy:
				r.busy = append(r.busy, got[i].Outcome)
			default:
				r.tell(got[i].Outcome)
			}
		}
	}
	r.waiting = left
}

// move gives one file its new destination, and tells why it did not.
func (r *operatorReplay) move(id uuid.UUID) tried {
	spools, release := r.g.store.hold()
	defer release()
	for _, s := range spools {
		switch err := s.Redirect(r.g.store.ctx, id, *r.to); {
		case err == nil:
			return tried{Outcome: Outcome{ID: id}, moved: true}
		case !errors.Is(err, spool.ErrNotFound):
			return outcome(id, spool.Later, err)
		}
	}
	return tried{Outcome: Outcome{ID: id, Result: Gone}}
}

// leave tells of the files that are not tried any more: those that have their new destination, and those that the daemon's own replay
// has delivered meanwhile, which is as fast with what was moved.
func (r *operatorReplay) leave(why string) {
	spools, release := r.g.store.hold()
	defer release()
	for _, id := range slices.Concat(r.untried, r.waiting, idsOf(r.busy)) {
		there := slices.ContainsFunc(spools, func(d *directory) bool { return d.Waits(id) })
		switch {
		case there && r.moved[id]:
			r.tell(Outcome{ID: id, Result: Untried, Reason: why, Moved: true})
		case !there && r.moved[id]:
			r.tell(Outcome{ID: id, Result: Delivered, Moved: true})
		case !there:
			r.tell(Outcome{ID: id, Result: Gone})
		}
	}
}

func idsOf(outcomes []Outcome) []uuid.UUID {
	ids := make([]uuid.UUID, len(outcomes))
	for i := range outcomes {
		ids[i] = outcomes[i].ID
	}
	return ids
}

// room is how many may run at once now: one while live mail is under way.
func (r *operatorReplay) room() int {
	if r.g.store.broker.Live() {
		return 1
	}
	return r.window
}

// begin tries id as soon as replay_rate allows it.
func (r *operatorReplay) begin(ctx context.Context, id uuid.UUID) {
	pause := time.Duration(0)
	if rate := r.g.running.Load().table.Config.Spool.ReplayRate; rate > 0 {
		pause = max(time.Until(r.next), 0)
		r.next = time.Now().Add(pause + time.Second/time.Duration(rate))
	}
	move := r.to != nil && !r.moved[id]
	r.running++
	go func() {
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				r.results <- tried{Outcome: Outcome{ID: id}, untold: true}
				return
			}
		}
		r.results <- r.one(id, move)
	}()
}

// end takes a result in, and tells whether it was another than that somebody else is at it.
func (r *operatorReplay) end(got tried) (decided bool) {
	r.running--
	if got.moved {
		r.moved[got.ID] = true
	}
	switch {
	case got.untold:
		r.untried = append(r.untried, got.ID)
		return true
	case got.away != nil:
		r.away = fmt.Errorf("%w: %w", ErrAway, got.away)
		r.untried = append(r.untried, got.ID)
		return true
	case got.Result == Busy:
		r.busy = append(r.busy, got.Outcome)
		return false
	case got.Result == Gone && r.moved[got.ID]:
		got.Result = Delivered
	case got.Result == Delivered:
		r.window = min(r.window+1, maxOperatorWindow)
	}
	got.Outcome.Moved = r.moved[got.ID]
	delete(r.moved, got.ID)
	r.tell(got.Outcome)
	return true
}

// tell hands an outcome to the caller, who may not listen any more when the store stops.
func (r *operatorReplay) tell(outcome Outcome) {
	select {
	case r.outcomes <- outcome:
	case <-r.unheard.Done():
	}
}

// one tries one file, after it was given its new destination where it has to move. What was begun ends though the caller is gone: it
// is cut only when the store stops.
func (r *operatorReplay) one(id uuid.UUID, move bool) tried {
	if move {
		if got := r.move(id); !got.moved {
			return got
		}
	}
	spools, release := r.g.store.hold()
	defer release()
	for _, s := range spools {
		verdict, err := s.Try(r.g.store.ctx, id, func(ctx context.Context, d *mail.Delivery) (spool.Verdict, error) {
			return r.g.resend(ctx, s.Spool, d)
		})
		if !errors.Is(err, spool.ErrNotFound) {
			got := outcome(id, verdict, err)
			got.moved = move
			return got
		}
	}
	return tried{Outcome: Outcome{ID: id, Result: Gone}, moved: move}
}

// outcome is what an operator is told of a try.
func outcome(id uuid.UUID, verdict spool.Verdict, err error) tried {
	o := Outcome{ID: id, Result: Failed}
	if err != nil {
		o.Reason = err.Error()
	}
	switch {
	case errors.Is(err, spool.ErrNotFound):
		o = Outcome{ID: id, Result: Gone}
	case errors.Is(err, spool.ErrBusy), errors.Is(err, memory.ErrExhausted):
		o.Result = Busy
	case verdict == spool.Done:
		o.Result = Delivered
	case verdict == spool.Stop:
		return tried{Outcome: o, away: err}
	case verdict == spool.Returned:
		o.Result = Refused
	case verdict == spool.Undecided:
		o.Result = Undecided
	}
	return tried{Outcome: o}
}
