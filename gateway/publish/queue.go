package publish

import (
	"context"
	"slices"
	"sync"
)

// queue is the shared publish channel: bounded, and whoever finds it full waits in line. It has one taker.
type queue struct {
	ready chan struct{} // holds a token when the taker should look again

	// guarded by mu
	mu      sync.Mutex
	limit   int
	tickets []*Ticket
	line    []*waiter
}

// waiter is a ticket that found the queue full.
type waiter struct {
	ticket *Ticket
	in     chan struct{} // closed when the ticket is in the queue
}

func newQueue(limit int) *queue {
	return &queue{ready: make(chan struct{}, 1), limit: limit}
}

// put appends t, waiting for room until ctx ends. It tells whether t is in the queue.
func (q *queue) put(ctx context.Context, t *Ticket) bool {
	q.mu.Lock()
	if len(q.tickets) < q.limit && len(q.line) == 0 {
		q.tickets = append(q.tickets, t)
		q.mu.Unlock()
		q.wake()
		return true
	}
	w := &waiter{ticket: t, in: make(chan struct{})}
	q.line = append(q.line, w)
	q.mu.Unlock()
	select {
	case <-w.in:
		return true
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.line, w); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		return false
	}
	return true
}

// take returns the oldest ticket whose sender still waits for its turn, or nil.
func (q *queue) take() *Ticket {
	for {
		t := q.pop()
		if t == nil || t.turn.CompareAndSwap(turnWaiting, turnTaken) {
			return t
		}
		t.free()
	}
}

func (q *queue) pop() *Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.tickets) == 0 {
		return nil
	}
	t := q.tickets[0]
	q.tickets[0] = nil
	q.tickets = q.tickets[1:]
	q.admit()
	return t
}

// resize changes how many tickets the queue holds. Those that are in stay.
func (q *queue) resize(limit int) {
	q.mu.Lock()
	q.limit = limit
	q.admit()
	q.mu.Unlock()
	q.wake()
}

// len returns how many tickets are in the queue or wait in line.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tickets) + len(q.line)
}

func (q *queue) admit() {
	for len(q.line) > 0 && len(q.tickets) < q.limit {
		w := q.line[0]
		q.line[0] = nil
		q.line = q.line[1:]
		q.tickets = append(q.tickets, w.ticket)
		close(w.in)
	}
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
