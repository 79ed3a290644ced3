package publish

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Outcome is what became of one delivery.
type Outcome int

// The outcomes of a delivery.
const (
	Confirmed   Outcome = iota // the broker has it, and routed it to a queue
	Returned                   // no queue takes it, or its exchange is missing or forbidden
	Rejected                   // basic.nack: the queue is full, or lost
	InDoubt                    // published and not confirmed: it may have arrived
	Unavailable                // not published: no broker takes mail, or its turn did not come in time
)

// String returns the outcome in lower case, as logs and metrics carry it.
func (o Outcome) String() string {
	return [...]string{"confirmed", "returned", "rejected", "in_doubt", "unavailable"}[o]
}

// Result is an Outcome and, for all but Confirmed, the reason.
type Result struct {
	Outcome Outcome
	Err     error
}

// maxRepublish is how often a delivery in doubt is published again while its session waits.
const maxRepublish = 2

// Ticket is one delivery's turn in the shared publish channel.
type Ticket struct {
	publisher *Publisher
	delivery  *mail.Delivery
	id        string // the delivery's, as AMQP carries it
	republish int
	doubt     error        // of an earlier publish that may have arrived
	turn      atomic.Int32 // turnWaiting, then turnTaken or turnGivenUp
	windowed  atomic.Bool  // it has a place in the window
	sent      chan sent    // one value for each submit

	// owned by whoever has the turn
	headers amqp.Table
	payload []byte
	pooled  bool // payload is a memory.Buffer, else it is the content itself
	content *memory.Content
	octets  int64 // of the payload
	held    int64 // of the content's hold, for it

	// guarded by mu
	mu    sync.Mutex
	final *Result
	late  func(Result)
}

const (
	turnWaiting int32 = iota
	turnTaken
	turnGivenUp
)

// sent is what the owner of the channel did with a ticket: published it on lane, or result.
type sent struct {
	lane   *lane
	dc     *amqp.DeferredConfirmation
	result Result
}

// Submit queues d and returns at once when there is room, else when there is, or when ctx ends. It encodes in the caller's
// goroutine. The caller must Wait for the ticket.
func (p *Publisher) Submit(ctx context.Context, d *mail.Delivery) *Ticket {
	t := &Ticket{publisher: p, delivery: d, id: d.ID.String(), sent: make(chan sent, 1)}
	t.submit(ctx)
	return t
}

func (t *Ticket) submit(ctx context.Context) {
	p := t.publisher
	if err := p.refusing(); err != nil {
		t.sent <- sent{result: Result{Unavailable, err}}
		return
	}
	if err := p.exchanges.fault(t.delivery.Exchange); err != nil {
		t.sent <- sent{result: Result{Returned, err}}
		return
	}
	if err := t.delivery.Check(); err != nil {
		t.sent <- sent{result: Result{Rejected, err}} // published, it would close the connection for everybody
		return
	}
	if err := t.encode(ctx); err != nil {
		t.sent <- sent{result: Result{Unavailable, err}}
		return
	}
	t.turn.Store(turnWaiting)
	if !p.queue.put(ctx, t) {
		t.free()
		t.sent <- sent{result: Result{Unavailable, errors.New("the publish channel was full until the confirm timeout")}}
	}
}

// encode makes the payload, in memory that it may have to wait for: the mail's own is held already.
func (t *Ticket) encode(ctx context.Context) error {
	held := t.delivery.PayloadMemory()
	if err := t.delivery.Content.Hold().Grow(ctx, held); err != nil {
		return err
	}
	t.held = held
	t.content = t.delivery.Content.Retain()
	t.headers = amqp.Table(t.delivery.AMQPHeaders())
	t.payload, t.pooled = t.delivery.Payload()
	t.octets = int64(len(t.payload))
	return nil
}

// free gives back what encode took.
func (t *Ticket) free() {
	if t.pooled {
		memory.Recycle(t.payload)
	}
	t.headers, t.payload = nil, nil
	t.content.Hold().Shrink(t.held)
	t.content.Release()
	t.content = nil
}

// giveUp tells r to who waits, instead of publishing. Only the owner of the channel calls it.
func (t *Ticket) giveUp(r Result) {
	t.free()
	t.sent <- sent{result: r}
}

// Wait returns what became of the delivery. When ctx ends, or the broker stops taking mail, before that is known, the
// outcome is InDoubt or Unavailable, and Late tells the rest.
func (t *Ticket) Wait(ctx context.Context) Result {
	for {
		r, known := t.await(ctx)
		if !known {
			go t.follow()
			return r
		}
		if r.Outcome == InDoubt && t.republish < maxRepublish && ctx.Err() == nil && t.publisher.refusing() == nil {
			t.republish++
			t.doubt = r.Err
			t.submit(ctx)
			continue
		}
		return t.settle(r)
	}
}

// await waits for one publish. It tells whether the result is the final one of that publish.
func (t *Ticket) await(ctx context.Context) (r Result, known bool) {
	var s sent
	select {
	case s = <-t.sent:
	case <-ctx.Done():
		if t.turn.CompareAndSwap(turnWaiting, turnGivenUp) {
			// The queue still holds the ticket; its taker sees that it was given up.
			return Result{Unavailable, errors.New("its turn did not come before the confirm timeout")}, true
		}
		return Result{InDoubt, errors.New("being written to the broker when the confirm timeout passed")}, false
	}
	if s.dc == nil {
		return s.result, true
	}
	select {
	case <-s.dc.Done():
		return t.confirmed(s), true
	default:
	}
	stalled := s.lane.link.stalled()
	select {
	case <-s.dc.Done():
		return t.confirmed(s), true
	case <-stalled:
		r = Result{InDoubt, errors.New("published, then the broker blocked the connection")}
	case <-ctx.Done():
		r = Result{InDoubt, errors.New("not confirmed within the confirm timeout")}
	}
	t.leaveWindow()
	t.sent <- s // for follow
	return r, false
}

// follow waits for the final result of a ticket that nobody waits for any more.
func (t *Ticket) follow() {
	s := <-t.sent
	if s.dc == nil {
		t.settle(s.result)
		return
	}
	t.leaveWindow()
	<-s.dc.Done()
	t.settle(t.confirmed(s))
}

func (t *Ticket) confirmed(s sent) Result {
	t.leaveWindow()
	defer s.lane.link.unconfirmed.Done()
	return s.lane.outcome(t.id, s.dc)
}

func (t *Ticket) leaveWindow() {
	if t.windowed.Swap(false) {
		t.publisher.window.give(t.octets)
	}
}

// settle makes r the final result. A refusal after an earlier publish in doubt is itself in doubt: the broker may have both.
func (t *Ticket) settle(r Result) Result {
	if t.doubt != nil && r.Outcome != Confirmed {
		r = Result{InDoubt, t.doubt}
	}
	t.mu.Lock()
	t.final = &r
	late := t.late
	t.mu.Unlock()
	if late != nil {
		late(r)
	}
	return r
}

// Late has f called with the final result: at once if it is known, else from another goroutine when it is. It is called at
// most once, after Wait.
func (t *Ticket) Late(f func(Result)) {
	t.mu.Lock()
	final := t.final
	t.late = f
	t.mu.Unlock()
	if final != nil {
		f(*final)
	}
}
