package publish

import (
	"context"
	"slices"
	"sync"
)

const (
	quantum     = 64 << 10 // octets that a listener may publish more in each of its turns
	messageCost = 1 << 10  // octets that a message counts beyond its payload, so that an empty one is not for nothing
	shareOf     = 4        // no listener has more than one part in so many of the queue, nor of the window
)

// queue is the shared publish channel: bounded, and fair to the listeners by deficit round robin in octets (Shreedhar and
// Varghese, 1995), so that a thousand sessions of one cannot starve the only one of another. Whoever finds it full waits in
// line; a listener that has nothing in it always finds room. It has one taker.
type queue struct {
	ready chan struct{} // holds a token when the taker should look again

	// guarded by mu
	mu       sync.Mutex
	closed   bool // nothing more gets in
	limit    int
	queued   int // tickets in the queue
	waiting  int // tickets in the lines
	backlogs map[string]*backlog
	turns    []*backlog // the same ones; it is the first one's turn
}

// backlog is what one listener has queued: never nothing.
type backlog struct {
	listener string
	tickets  []*Ticket
	line     []*waiter
	credit   int64 // octets that it may still publish in this turn
}

// waiter is a ticket that found the queue full.
type waiter struct {
	ticket *Ticket
	in     chan struct{} // closed when the ticket is in the queue
}

func newQueue(limit int) *queue {
	return &queue{ready: make(chan struct{}, 1), limit: limit, backlogs: map[string]*backlog{}}
}

// put appends t, waiting for room until ctx ends. It tells whether t is in the queue.
func (q *queue) put(ctx context.Context, t *Ticket) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	b := q.backlog(t.listener())
	if len(b.line) == 0 && q.room(b) {
		q.add(b, t)
		q.mu.Unlock()
		q.wake()
		return true
	}
	w := &waiter{ticket: t, in: make(chan struct{})}
	b.line = append(b.line, w)
	q.waiting++
	q.mu.Unlock()
	select {
	case <-w.in:
		return true
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(b.line, w); i >= 0 {
		b.line = slices.Delete(b.line, i, i+1)
		q.waiting--
		return false
	}
	return true
}

// backlog returns the listener's. A new one is not empty for long: there is room for its first ticket.
func (q *queue) backlog(listener string) *backlog {
	b := q.backlogs[listener]
	if b == nil {
		b = &backlog{listener: listener}
		q.backlogs[listener] = b
		q.turns = append(q.turns, b)
	}
	return b
}

func (q *queue) room(b *backlog) bool {
	return len(b.tickets) == 0 || q.queued < q.limit && len(b.tickets) < max(q.limit/shareOf, 1)
}

func (q *queue) add(b *backlog, t *Ticket) {
	b.tickets = append(b.tickets, t)
	q.queued++
}

// take returns the next ticket whose sender still waits for its turn, in its place of w; nil where there is none, or no room
// for it. Without w it takes whatever is next.
func (q *queue) take(w *window) *Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	for blocked := 0; blocked < len(q.turns); {
		b := q.turns[0]
		t := b.tickets[0]
		cost := t.octets + messageCost
		switch {
		case b.credit < cost:
			b.credit += quantum
			q.rotate()
			blocked = 0
		case w != nil && !w.take(t):
			q.rotate()
			blocked++
		case t.turn.Load() == turnGivenUp:
			q.pop(b)
			t.leaveWindow()
			t.free()
			blocked = 0
		default:
			b.credit -= cost
			q.pop(b)
			return t
		}
	}
	return nil
}

// rotate ends the turn of the first listener.
func (q *queue) rotate() { q.turns = append(q.turns[1:], q.turns[0]) }

// pop takes out the first ticket of b, whose turn it is, and lets in whoever has room now.
func (q *queue) pop(b *backlog) {
	b.tickets[0] = nil
	b.tickets = b.tickets[1:]
	q.queued--
	q.admit()
	if len(b.tickets) == 0 {
		delete(q.backlogs, b.listener)
		q.turns = q.turns[1:]
	}
}

// admit lets in from the lines whoever has room now, those first who will have their turn first.
func (q *queue) admit() {
	for _, b := range q.turns {
		if q.waiting == 0 {
			return
		}
		for len(b.line) > 0 && q.room(b) {
			w := b.line[0]
			b.line[0] = nil
			b.line = b.line[1:]
			q.waiting--
			q.add(b, w.ticket)
			close(w.in)
		}
	}
}

// close lets nothing more in. What is in, or waits in line, can still be taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
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
	return q.queued + q.waiting
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
