package spool

import (
	"container/heap"

	"github.com/google/uuid"
)

// state says in whose hands a file is.
type state uint8

const (
	writing    state = iota // Put's; it has no name yet
	held                    // on disk, its first publish not decided
	ready                   // for replay
	waiting                 // for its back-off to pass
	trying                  // a replay's
	unreadable              // nobody's, until an operator comes
	removing                // the sweeper's
	states
)

// settlement is what Settle said of a file.
type settlement uint8

const (
	open settlement = iota
	free            // for replay
	gone            // confirmed: to be removed
)

// entry is what is known of one file without reading it.
type entry struct {
	id       uuid.UUID
	spooled  int64 // Unix nanoseconds
	size     int64 // octets of the file
	due      int64 // on the Spool's clock; not tried before
	attempts int32
	slots    [2]int32 // its places in queues
	state    state
	settled  settlement
	tried    bool // by a replay
}

// index knows every file of the spool. Whoever uses it holds the Spool's lock.
type index struct {
	byID          map[uuid.UUID]*entry
	byAge         queue // every file that waits for the broker, held and trying ones too
	ready         queue // by age
	waiting       queue // by due
	removals      []*entry
	octets        int64 // of the files in byAge
	count         [states]int
	noDestination int
}

func newIndex() index {
	older := func(a, b *entry) bool { return a.spooled < b.spooled }
	return index{
		byID:    make(map[uuid.UUID]*entry),
		byAge:   queue{slot: 0, before: older},
		ready:   queue{slot: 1, before: older},
		waiting: queue{slot: 1, before: func(a, b *entry) bool { return a.due < b.due }},
	}
}

// add takes in a file that is on disk.
func (x *index) add(e *entry, as state) {
	x.byID[e.id] = e
	x.enter(e, as)
}

// move puts a file into other hands.
func (x *index) move(e *entry, to state) {
	x.leave(e, to)
	x.enter(e, to)
}

// forget drops a file that is no longer on disk.
func (x *index) forget(e *entry) {
	x.leave(e, removing)
	delete(x.byID, e.id)
}

func (x *index) enter(e *entry, as state) {
	wasPending := e.state.pending()
	e.state = as
	x.count[as]++
	switch as {
	case ready:
		heap.Push(&x.ready, e)
	case waiting:
		heap.Push(&x.waiting, e)
	case removing:
		x.removals = append(x.removals, e)
	}
	if as.pending() && !wasPending {
		heap.Push(&x.byAge, e)
		x.octets += e.size
	}
}

// leave takes e out of the queues of its state, and of byAge where it is not pending in its next one.
func (x *index) leave(e *entry, next state) {
	x.count[e.state]--
	switch e.state {
	case ready:
		heap.Remove(&x.ready, int(e.slots[1]))
	case waiting:
		heap.Remove(&x.waiting, int(e.slots[1]))
	}
	if e.state.pending() && !next.pending() {
		heap.Remove(&x.byAge, int(e.slots[0]))
		x.octets -= e.size
	}
}

// pending tells the states of files that wait for the broker.
func (s state) pending() bool { return s >= held && s <= trying }

// next takes the oldest file that may be tried now, where it has at most room octets; nil where there is none. due is when the next
// one in back-off may be tried, 0 where there is none.
func (x *index) next(now, room int64) (e *entry, due int64) {
	for x.waiting.Len() > 0 && x.waiting.entries[0].due <= now {
		x.move(x.waiting.entries[0], ready)
	}
	if x.waiting.Len() > 0 {
		due = x.waiting.entries[0].due
	}
	if x.ready.Len() == 0 || x.ready.entries[0].size > room {
		return nil, due
	}
	e = x.ready.entries[0]
	x.move(e, trying)
	return e, due
}

// queue is a heap whose entries know their place in it.
type queue struct {
	slot    int // of entry.slots
	before  func(a, b *entry) bool
	entries []*entry
}

func (q *queue) Len() int           { return len(q.entries) }
func (q *queue) Less(i, j int) bool { return q.before(q.entries[i], q.entries[j]) }

func (q *queue) Swap(i, j int) {
	q.entries[i], q.entries[j] = q.entries[j], q.entries[i]
	q.entries[i].slots[q.slot] = int32(i)
	q.entries[j].slots[q.slot] = int32(j)
}

func (q *queue) Push(e any) {
	e.(*entry).slots[q.slot] = int32(len(q.entries))
	q.entries = append(q.entries, e.(*entry))
}

func (q *queue) Pop() any {
	last := len(q.entries) - 1
	e := q.entries[last]
	q.entries[last] = nil
	q.entries = q.entries[:last]
	return e
}
