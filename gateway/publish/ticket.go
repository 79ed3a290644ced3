package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

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

const (
	maxRepublish = 2       // how often a delivery in doubt is published again while its session waits
	bulkOctets   = 1 << 20 // a larger payload goes by the bulk lane
)

// Ticket is one delivery's turn in the shared publish channel.
type Ticket struct {
	publisher *Publisher
	delivery  *mail.Delivery
	id        string // the delivery's, as AMQP carries it
	patience  time.Duration
	republish int
	doubt     error        // of an earlier publish that may have arrived
	suspected *hunt        // for the message that ended the channel of the last publish
	accused   bool         // it may be that one itself
	turn      atomic.Int32 // turnWaiting, then turnBegun or turnGivenUp
	windowed  atomic.Bool  // it has a place in the window
	sent      chan sent    // one value for each submit
	encoded   func()       // see WhenWritten; nil once it was called

	// owned by whoever has the turn
	lane    *lane
	probe   bool  // it finds out whether its destination confirms, or is taken again
	wary    bool  // the broker may close the channel for it
	hunt    *hunt // the ticket has its turn: it is published alone
	headers amqp.Table
	payload []byte
	pooled  bool // payload is a memory.Buffer, else it is the content itself
	content *memory.Content
	octets  int64 // of the payload
	table   int   // octets of a header table that it was found to fit in
	held    int64 // of the content's hold, for it

	// guarded by mu
	mu    sync.Mutex
	final *Result
	late  func(Result)
}

const (
	turnWaiting int32 = iota
	turnBegun
	turnGivenUp
)

// sent is what a lane did with a ticket: published it on channel, or result.
type sent struct {
	channel *channel
	dc      *amqp.DeferredConfirmation
	at      time.Time
	age     *age
	result  Result
}

// settled ends what publish began.
func (s *sent) settled() {
	s.age.unconfirmed.Add(-1)
	s.channel.link.unconfirmed.Done()
}

// Submit queues d and returns at once when there is room, else when there is, or when ctx ends. It encodes in the caller's
// goroutine. What is replayed goes by the bulk lane. The caller must Wait for the ticket.
func (p *Publisher) Submit(ctx context.Context, d *mail.Delivery) *Ticket {
	t := &Ticket{publisher: p, delivery: d, id: d.ID.String(), sent: make(chan sent, 1)}
	if by, limited := ctx.Deadline(); limited {
		t.patience = time.Until(by)
	}
	t.submit(ctx)
	return t
}

func (t *Ticket) submit(ctx context.Context) {
	if refusal := t.choose(); refusal.Err != nil {
		t.sent <- sent{result: refusal}
		return
	}
	if err := t.encode(ctx); err != nil {
		t.sent <- sent{result: Result{Unavailable, err}}
		return
	}
	t.turn.Store(turnWaiting)
	if !t.lane.queue.put(ctx, t) {
		t.free()
		full := errors.New("the publish channel was full until the confirm timeout")
		t.sent <- sent{result: Result{Unavailable, cmp.Or(t.publisher.refusing(), full)}}
	}
}

// choose chooses the lane, or tells why t is not to be published now.
func (t *Ticket) choose() (refusal Result) {
	p, d := t.publisher, t.delivery
	t.lane = p.live
	if err := p.refusing(); err != nil {
		return Result{Unavailable, err}
	}
	t.table = p.MaxTable()
	if err := d.CheckWithin(t.table); err != nil {
		return Result{Rejected, err} // published, it would close the connection for everybody
	}
	verified, err := p.exchanges.ask(d.Exchange)
	if err != nil {
		return Result{Returned, err}
	}
	if t.wary, err = p.refusals.fault(destinationOf(d)); err != nil {
		return Result{Returned, err}
	}
	if t.probe, err = p.breakers.fault(destinationOf(d)); err != nil {
		return Result{Rejected, err}
	}
	t.probe = t.probe || t.wary
	t.wary = t.wary || p.refusals.wary(sender{t.listener(), d.Exchange})
	replayed := !d.SpooledAt.IsZero()
	if !verified || replayed || t.probe || t.wary || t.hunt != nil || d.Size() > bulkOctets {
		t.lane = p.bulk
		if err := p.bulk.refusing(); err != nil {
			return Result{Unavailable, err}
		}
	}
	return Result{}
}

// shut tells why t is not to be published any more, though it was when it was queued. Its Err is nil where it is.
func (p *Publisher) shut(t *Ticket) (refusal Result) {
	d := destinationOf(t.delivery)
	if err := p.exchanges.fault(d.exchange); err != nil {
		return Result{Returned, err}
	}
	if t.probe {
		return Result{}
	}
	if err := p.refusals.shut(d); err != nil {
		return Result{Returned, err}
	}
	if p.breakers.shut(d) {
		return Result{Rejected, errBreaker}
	}
	return Result{}
}

// listener is whose share of queue and window t takes.
func (t *Ticket) listener() string { return t.delivery.Envelope.Listener }

// encode is the one place where a payload comes into being, in memory that it may have to wait for: the mail's own is held
// already. free is its end.
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

// begin begins to publish t, unless its sender has given it up. It may be called again.
func (t *Ticket) begin() bool {
	return t.turn.CompareAndSwap(turnWaiting, turnBegun) || t.turn.Load() == turnBegun
}

// giveUp tells r to who waits, instead of publishing. Only a lane calls it.
func (t *Ticket) giveUp(r Result) {
	t.leaveWindow()
	t.free()
	t.sent <- sent{result: r}
}

// WhenWritten has Wait call f, once, when the octets of the payload are free: they are written to the broker, or will not be. It is to
// be called before Wait.
func (t *Ticket) WhenWritten(f func()) { t.encoded = f }

// Wait returns what became of the delivery. When ctx ends, or the broker stops taking mail, before that is known, the
// outcome is InDoubt or Unavailable, and Late tells the rest.
func (t *Ticket) Wait(ctx context.Context) Result {
	for {
		r, known := t.await(ctx)
		if !known {
			go t.follow()
			return r
		}
		if r.Outcome != InDoubt || t.republish == maxRepublish || ctx.Err() != nil || t.publisher.refusing() != nil {
			return t.settle(r)
		}
		t.republish++
		t.doubt = r.Err
		t.hunt = nil
		if t.suspected != nil && t.suspected.begin(ctx) {
			t.hunt = t.suspected
		}
		t.submit(ctx)
	}
}

// await waits for one publish. It tells whether the result is the final one of that publish.
func (t *Ticket) await(ctx context.Context) (r Result, known bool) {
	if t.hunt == nil {
		return t.awaitSent(ctx)
	}
	alone, cancel := context.WithTimeout(ctx, huntPatience)
	defer cancel()
	r, known = t.awaitSent(alone)
	culprit := known && r.Outcome == InDoubt && t.accused
	t.hunt.end(culprit)
	if culprit {
		// It was alone when the broker closed the channel.
		r.Outcome, t.republish = Rejected, maxRepublish
	}
	return r, known
}

func (t *Ticket) awaitSent(ctx context.Context) (r Result, known bool) {
	s, missed := t.awaitLane(ctx)
	if t.encoded != nil {
		t.encoded()
		t.encoded = nil
	}
	if missed != "" {
		return t.unsent(missed)
	}
	if s.dc == nil {
		return s.result, true
	}
	stalled := s.channel.link.stalled()
	select {
	case <-s.dc.Done():
	case <-stalled:
	case <-ctx.Done():
	}
	switch {
	case isDone(s.dc.Done()): // whatever else is: who waits for several deliveries comes late to the last
		return t.confirmed(s), true
	case ctx.Err() != nil:
		r = Result{InDoubt, errors.New("not confirmed within the confirm timeout")}
		if t.hunt == nil && ctx.Err() == context.DeadlineExceeded && time.Since(s.at) >= t.patience/2 {
			t.publisher.breakers.missed(destinationOf(t.delivery))
		}
	default:
		r = Result{InDoubt, errors.New("published, then the broker blocked the connection")}
	}
	t.leaveWindow()
	t.sent <- s // for follow
	return r, false
}

// awaitLane waits for what the lane did with the ticket. missed is "" where that is known: whatever else has happened by now.
func (t *Ticket) awaitLane(ctx context.Context) (s sent, missed string) {
	select {
	case s = <-t.sent:
		return s, ""
	case <-t.lane.stopped(): // and the lane may be stuck in a write
		missed = "the broker stopped taking mail"
	case <-ctx.Done():
		missed = "the confirm timeout passed"
	}
	select {
	case s = <-t.sent:
		return s, ""
	default:
		return sent{}, missed
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// unsent is the result of a ticket that no lane has published yet. The queue or the lane still holds it, and sees that it was given up.
func (t *Ticket) unsent(when string) (r Result, known bool) {
	if t.turn.CompareAndSwap(turnWaiting, turnGivenUp) {
		return Result{Unavailable, cmp.Or(t.publisher.refusing(), errors.New("its turn did not come before "+when))}, true
	}
	return Result{InDoubt, errors.New("being written to the broker when " + when)}, false
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
	defer s.settled()
	r := s.channel.outcome(t, s.dc)
	t.suspected, t.accused = nil, false
	p, d := t.publisher, destinationOf(t.delivery)
	if r.Outcome != InDoubt {
		p.breakers.answered(d)
		p.refusals.answered(d)
		return r
	}
	if reason := s.channel.why(); reason != nil {
		who := p.blame(s.channel)
		t.suspected, t.accused = s.channel.suspects(), who.includes(t)
		if t.accused && who.blames == itsMail {
			p.refusals.beware(sender{t.listener(), d.exchange})
		}
		r.Err = fmt.Errorf("the broker closed the channel before it confirmed: %s", reason.Reason)
	}
	return r
}

func (t *Ticket) leaveWindow() {
	if t.windowed.Swap(false) {
		t.lane.window.give(t)
	}
}

// settle makes r the final result. A refusal after an earlier publish in doubt is itself in doubt: the broker may have both.
func (t *Ticket) settle(r Result) Result {
	if t.doubt != nil && r.Outcome != Confirmed {
		r = Result{InDoubt, cmp.Or(r.Err, t.doubt)}
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
