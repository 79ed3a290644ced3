package publish

import (
	"maps"
	"sync/atomic"
	"time"
)

const (
	nacksToMove  = 3                // nacks in a row of a destination that the channel confirmed nothing for
	moveSoonest  = 10 * time.Second // between two channels that a lane leaves for their nacks
	moveLatest   = 5 * time.Minute  // the longest until the next is left for the same destination
	maxAnswered  = 4096             // destinations that a channel remembers: a key may be made of what senders choose
	someAccepted = -1               // in a row: the channel confirmed something for the destination
)

// nacks knows the destinations of which one channel is refused everything. RabbitMQ 3.10 does not recover a channel whose first message
// to a quorum queue comes while that has no leader: it nacks all that follow there, for ever, while a new channel is confirmed at
// once. What the channel once got confirmed it can reach: then nacks are of the queue, which is full or lost.
type nacks struct {
	shut atomic.Int64 // how many destinations: mostly none, and then nobody takes the lock

	// guarded by the channel's mu
	row map[destination]int // nacks since the channel began, or someAccepted
}

func (n *nacks) confirmed(d destination) {
	row, known := n.row[d]
	if row == someAccepted {
		return
	}
	if row >= nacksToMove {
		n.shut.Add(-1)
	}
	if !known {
		n.makeRoom()
	}
	n.row[d] = someAccepted
}

func (n *nacks) refused(d destination) {
	row, known := n.row[d]
	if row == someAccepted {
		return
	}
	if !known {
		n.makeRoom()
	}
	if n.row[d] = row + 1; row+1 == nacksToMove {
		n.shut.Add(1)
	}
}

// makeRoom forgets, where there are too many, what costs one move in vain at most.
func (n *nacks) makeRoom() {
	if len(n.row) < maxAnswered {
		return
	}
	maps.DeleteFunc(n.row, func(_ destination, row int) bool { return row == someAccepted })
	if len(n.row) > maxAnswered/2 {
		clear(n.row)
		n.shut.Store(0)
	}
}

// refuses tells whether c is refused everything for d.
func (c *channel) refuses(d destination) bool {
	if c.nacks.shut.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nacks.row[d] >= nacksToMove
}

// refused returns the destinations of which c is refused everything.
func (c *channel) refused() (all []destination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d, row := range c.nacks.row {
		if row >= nacksToMove {
			all = append(all, d)
		}
	}
	return all
}

// moves tells when a lane leaves a channel for its nacks. A queue that is full refuses on any channel: for a destination that the
// next one is refused too, the one after comes later, each time twice as late.
type moves struct {
	next  time.Time             // for whomever
	tried map[destination]trial // who was refused on the last channel that was left
}

type trial struct {
	pause time.Duration
	next  time.Time
}

func (m *moves) due(d destination, now time.Time) bool {
	return !now.Before(m.next) && !now.Before(m.tried[d].next)
}

// moved notes that a channel is left that refused everything for refused: the next one is a trial for them all.
func (m *moves) moved(refused []destination, now time.Time) {
	tried := make(map[destination]trial, len(refused))
	for _, d := range refused {
		pause := min(max(2*m.tried[d].pause, moveSoonest), moveLatest)
		tried[d] = trial{pause, now.Add(pause)}
	}
	m.next, m.tried = now.Add(moveSoonest), tried
}
