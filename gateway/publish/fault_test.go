package publish

import (
	"context"
	"slices"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"go.uber.org/goleak"
)

// faultPatience is how long a result may take on a busy machine before the test fails.
const faultPatience = time.Minute

// probeNow makes every exchange due that is not usable.
func (e *exchanges) probeNow() {
	e.mu.Lock()
	for _, x := range e.known {
		x.next, x.pause = time.Time{}, 0
	}
	e.mu.Unlock()
	e.look()
}

// leavesNothing fails t if a goroutine outlives it and what it started. It comes first, in a test that runs beside no other.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// hold is the script that leaves messages unanswered.
func hold(*amqptest.Publish) {}

// verify waits until the exchanges are verified, so that mail for them goes by the live lane.
func verify(t *testing.T, p *Publisher, exchanges ...string) {
	t.Helper()
	if err := p.AwaitAvailable(within(t, faultPatience)); err != nil {
		t.Fatal(err)
	}
	for _, name := range exchanges {
		until(t, faultPatience, func() bool {
			verified, _ := p.exchanges.ask(name)
			return verified
		})
	}
}

// pending is a delivery whose sender waits.
type pending struct {
	*mail.Delivery
	ticket *Ticket
	result chan Result
}

// submit queues d, and waits for its result elsewhere, until ctx ends.
func submit(ctx context.Context, p *Publisher, d *mail.Delivery) *pending {
	w := &pending{Delivery: d, ticket: p.Submit(ctx, d), result: make(chan Result, 1)}
	go func() { w.result <- w.ticket.Wait(ctx) }()
	return w
}

// submitAll is submit of n deliveries to one exchange.
func submitAll(ctx context.Context, p *Publisher, n int, exchange string) []*pending {
	all := make([]*pending, n)
	for i := range all {
		all[i] = submit(ctx, p, delivery(exchange, "k"))
	}
	return all
}

// want waits for the result, which must be one of outcomes.
func (w *pending) want(t *testing.T, outcomes ...Outcome) Result {
	t.Helper()
	select {
	case r := <-w.result:
		if !slices.Contains(outcomes, r.Outcome) {
			t.Errorf("to %s by %s: %v (%v), want %v", w.Exchange, w.RoutingKey, r.Outcome, r.Err, outcomes)
		}
		if r.Outcome != Confirmed && r.Err == nil {
			t.Errorf("%v for no reason", r.Outcome)
		}
		return r
	case <-time.After(faultPatience):
		t.Fatalf("no result after %v", faultPatience)
		return Result{}
	}
}

// waits fails t if the result is there.
func (w *pending) waits(t *testing.T) {
	t.Helper()
	select {
	case r := <-w.result:
		t.Errorf("its own ack has not come, and it is %v: %v", r.Outcome, r.Err)
	default:
	}
}

// confirmTimeout is the context of a mail whose confirm timeout passes when it is closed, and no earlier.
type confirmTimeout chan struct{}

// Deadline implements context.Context.
func (confirmTimeout) Deadline() (time.Time, bool) { return time.Now(), true }

// Done implements context.Context.
func (c confirmTimeout) Done() <-chan struct{} { return c }

// Err implements context.Context.
func (c confirmTimeout) Err() error {
	select {
	case <-c:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// Value implements context.Context.
func (confirmTimeout) Value(any) any { return nil }

// misses lets the confirm timeout pass when the message has arrived, which stays without an answer, and its sender waits for that.
func (w *pending) misses(t *testing.T, b *amqptest.Broker, timeout confirmTimeout) {
	t.Helper()
	arrived(t, b, w)
	until(t, faultPatience, func() bool { return len(w.ticket.sent) == 0 })
	close(timeout)
	w.want(t, InDoubt)
}

// late is the final result, after want.
func (w *pending) late(t *testing.T) Result {
	t.Helper()
	final := make(chan Result, 1)
	w.ticket.Late(func(r Result) { final <- r })
	select {
	case r := <-final:
		return r
	case <-time.After(faultPatience):
		t.Fatalf("no late result after %v", faultPatience)
		return Result{}
	}
}

// untilConfirmed submits d as the replay would: again, until it is confirmed. That the connection is gone is noticed in its own time.
func untilConfirmed(t *testing.T, p *Publisher, d *mail.Delivery) {
	t.Helper()
	until(t, 2*faultPatience, func() bool {
		return submit(t.Context(), p, d).want(t, Confirmed, InDoubt, Unavailable).Outcome == Confirmed
	})
}

// copies are the messages that arrived of a delivery.
func (w *pending) copies(b *amqptest.Broker) []*amqptest.Publish {
	var own []*amqptest.Publish
	for _, p := range b.Published() {
		if p.MessageId == w.ID.String() {
			own = append(own, p)
		}
	}
	return own
}

// arrived waits for the first message of each delivery, and returns them in the order of all.
func arrived(t *testing.T, b *amqptest.Broker, all ...*pending) []*amqptest.Publish {
	t.Helper()
	first := make([]*amqptest.Publish, len(all))
	b.Await("all of them have arrived", func() bool {
		for i, w := range all {
			own := w.copies(b)
			if len(own) == 0 {
				return false
			}
			first[i] = own[0]
		}
		return true
	})
	return first
}

// bulky is a delivery of so many octets.
func bulky(exchange string, octets int) *mail.Delivery {
	d := delivery(exchange, "k")
	d.Content = memory.NewContent(nil, octets, nil)
	d.Content.Extend(len(d.Content.Room()[:octets]))
	d.Envelope.Size = int64(octets)
	return d
}
