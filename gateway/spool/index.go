package spool

import (
	"math"
	"strings"

	"github.com/google/uuid"
)

// state says in whose hands a file is.
type state uint8

const (
	writing    state = iota // Put's; it has no name yet
	held                    // on disk, its first publish not decided
	ready                   // for replay
	waiting                 // for its back-off to pass
	trying                  // a replay's, or an operator's
	stray                   // LSMTPD's own: nobody's, until an operator says where to
	unreadable              // nobody's: it could not be moved to bad/
	removing                // the sweeper's
	states
)

// pending tells the states of files that wait for the broker.
func (s state) pending() bool { return s >= held && s <= trying }

// settlement is what Settle said of a file.
type settlement uint8

const (
	open settlement = iota
	free            // for replay
	gone            // confirmed: to be removed
)

// entry is what is known of one file without reading it: 64 octets, because there may be a million of them.
type entry struct {
	id       uuid.UUID
	spooled  int64 // Unix nanoseconds
	size     int64 // octets of the file
	to       *destination
	from     *origin
	slots    [2]int32 // its places in byAge and in its destination's ready
	attempts uint16   // that failed
	state    state
	settled  settlement
	tried    bool // by a replay
	urgent   bool // an operator asked for it
	crowded  bool // there was no memory for it the last time: others go first
	blind    bool // its head could not be read: where it goes and whose it is are not known
}

// failure is why the last attempt at a file failed, and when the next one may be.
type failure struct {
	e    *entry
	why  string
	due  int64 // on the Spool's clock
	slot int32
}

// origin is a listener.
type origin struct {
	name    string
	files   int   // entries that point here; the last one takes it along
	octets  int64 // of its files that wait for the broker or are being written
	writing int   // files
	small   lane
	large   lane
}

// index knows every file of the spool. Whoever uses it holds the Spool's lock.
type index struct {
	byID         table
	destinations map[destinationName]*destination
	origins      map[string]*origin
	failures     map[*entry]*failure
	byAge        queue[*entry]       // every file that waits for the broker, held and trying ones too
	order        queue[*destination] // those with a file that may be tried now, by the age of the first one
	resting      queue[*destination] // those with files that may not, by due
	waiting      queue[*failure]     // by due
	removals     []*entry
	stuck        []*entry // that could not be removed
	octets       int64    // of the files in byAge
	reserved     int64    // octets of the files being written
	count        [states]int
	bad          int    // files in bad/
	ignored      int    // files that are not the spool's, at the last survey
	why          string // the last failure's; thousands may share one
}

func newIndex() index {
	return index{
		destinations: make(map[destinationName]*destination),
		origins:      make(map[string]*origin),
		failures:     make(map[*entry]*failure),
		byAge:        queue[*entry]{before: older, place: ageSlot},
		order:        queue[*destination]{before: firstFile, place: destinationSlot},
		resting:      queue[*destination]{before: dueFirst, place: destinationSlot},
		waiting: queue[*failure]{
			before: func(a, b *failure) bool { return a.due < b.due },
			place:  func(f *failure) *int32 { return &f.slot },
		},
	}
}

func older(a, b *entry) bool                { return a.spooled < b.spooled }
func ageSlot(e *entry) *int32               { return &e.slots[0] }
func readySlot(e *entry) *int32             { return &e.slots[1] }
func destinationSlot(d *destination) *int32 { return &d.slot }
func dueFirst(a, b *destination) bool       { return a.due < b.due }
func firstFile(a, b *destination) bool {
	x, y := a.ready.first(), b.ready.first()
	if x.urgent != y.urgent {
		return x.urgent
	}
	return older(x, y)
}

// entry returns a new one, of a file that is in no hands yet.
func (x *index) entry(id uuid.UUID, h *head) *entry {
	e := &entry{id: id, spooled: h.SpooledAt.UnixNano(), to: x.destination(h.Exchange, h.RoutingKey)}
	e.from = x.origin(h.Listener)
	return e
}

// origin returns the listener of that name, which has one file more.
func (x *index) origin(name string) *origin {
	o := x.origins[name]
	if o == nil {
		o = &origin{name: strings.Clone(name)}
		o.small.from, o.large.from, o.large.large = o, o, true
		x.origins[o.name] = o
	}
	o.files++
	return o
}

// drop gives back what entry took.
func (x *index) drop(e *entry) {
	x.abandon(e.to)
	if e.from.files--; e.from.files == 0 {
		delete(x.origins, e.from.name)
	}
	delete(x.failures, e)
}

// add takes in a file that is on disk.
func (x *index) add(e *entry, as state) {
	x.byID.put(e)
	x.enter(e, as)
}

// move puts a file into other hands.
func (x *index) move(e *entry, to state) {
	x.leave(e, to)
	x.enter(e, to)
}

// forget drops a file that is no longer there.
func (x *index) forget(e *entry) {
	x.leave(e, removing)
	x.byID.remove(e)
	x.drop(e)
}

func (x *index) enter(e *entry, as state) {
	wasPending := e.state.pending()
	e.state = as
	x.count[as]++
	switch as {
	case ready:
		e.to.ready.push(e)
		x.settle(e.to)
	case waiting:
		x.waiting.push(x.failures[e])
	case trying:
		e.urgent, e.crowded = false, false
		e.to.trying++
		x.settle(e.to)
	case removing:
		x.removals = append(x.removals, e)
	}
	if as.pending() && !wasPending {
		x.byAge.push(e)
		x.octets += e.size
		e.from.octets += e.size
	}
}

// leave takes e out of the queues of its state, and of byAge where it is not pending in its next one.
func (x *index) leave(e *entry, next state) {
	x.count[e.state]--
	switch e.state {
	case ready:
		e.to.ready.remove(e)
		x.settle(e.to)
	case waiting:
		x.waiting.remove(x.failures[e])
	case trying:
		e.to.trying--
		x.settle(e.to)
	}
	if e.state.pending() && !next.pending() {
		x.byAge.remove(e)
		x.octets -= e.size
		e.from.octets -= e.size
	}
}

// resize notes that the file of e, which is pending, has another size.
func (x *index) resize(e *entry, size int64) {
	x.octets += size - e.size
	e.from.octets += size - e.size
	e.size = size
}

// redirect changes where e goes. It is in nobody's queue.
func (x *index) redirect(e *entry, exchange, key string) {
	to := x.destination(exchange, key)
	if e.state == trying {
		e.to.trying--
		to.trying++
		x.settle(e.to)
		x.settle(to)
	}
	x.abandon(e.to)
	e.to = to
}

// note keeps why the last attempt at e was not a success.
func (x *index) note(e *entry, err error) *failure {
	f := x.failures[e]
	if f == nil {
		f = &failure{e: e, why: "not confirmed"}
		x.failures[e] = f
	}
	if err == nil {
		return f
	}
	if why := err.Error(); why != x.why {
		x.why = why
	}
	f.why = x.why
	return f
}

// fail notes why e was tried in vain; it waits for its back-off.
func (x *index) fail(e *entry, err error, now int64) {
	pause := min(firstBackOff<<min(e.attempts, 7), maxBackOff)
	if e.attempts < math.MaxUint16 {
		e.attempts++
	}
	x.note(e, err).due = now + int64(pause)
	x.move(e, waiting)
}

// wakeUp lets go what has waited long enough, and returns when the next one will have; 0 where there is none.
func (x *index) wakeUp(now int64) (due int64) {
	for x.waiting.Len() > 0 && x.waiting.first().due <= now {
		x.move(x.waiting.first().e, ready)
	}
	for x.resting.Len() > 0 && x.resting.first().due <= now {
		d := x.resting.first()
		x.rest(d, 0)
	}
	if x.waiting.Len() > 0 {
		due = x.waiting.first().due
	}
	if x.resting.Len() > 0 && (due == 0 || x.resting.first().due < due) {
		due = x.resting.first().due
	}
	return due
}

// next takes the file that is first in order, where it has at most room octets and its exchange is not blocked; nil where there is
// none.
func (x *index) next(now, room int64, blocked func(exchange string) bool) *entry {
	for x.order.Len() > 0 {
		d := x.order.first()
		if blocked(d.exchange) {
			x.rest(d, now+int64(blockedPause))
			continue
		}
		e := d.ready.first()
		if e.size > room {
			return nil
		}
		x.move(e, trying)
		return e
	}
	return nil
}
