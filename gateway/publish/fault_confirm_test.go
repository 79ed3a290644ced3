package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
)

func TestOnlyTheOwnAckConfirmsWhateverTheOrder(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Script(hold)
	all := submitAll(t.Context(), p, 8, "x")
	at := arrived(t, b, all...)
	at[7].Ack()
	all[7].want(t, Confirmed)
	at[5].Nack()
	all[5].want(t, Rejected)
	for _, w := range all[:5] {
		w.waits(t)
	}
	at[3].AckUpTo()
	for _, w := range all[:4] {
		w.want(t, Confirmed)
	}
	all[4].waits(t)
	all[6].waits(t)
	at[6].Unroutable()
	all[6].want(t, Returned)
	at[4].Ack()
	all[4].want(t, Confirmed)
	if n := len(b.Published()); n != 8 {
		t.Errorf("%d messages arrived of 8", n)
	}
}

func TestReturnsAmongAcksOutOfOrderReachTheirOwnSender(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	var mu sync.Mutex
	var held []*amqptest.Publish
	answer := func(p *amqptest.Publish) {
		if p.RoutingKey == "nobody" {
			p.Unroutable()
			return
		}
		p.Ack()
	}
	flush := func() {
		mu.Lock()
		defer mu.Unlock()
		for i := range held {
			answer(held[len(held)-1-i])
		}
		held = nil
	}
	b.Script(func(p *amqptest.Publish) {
		mu.Lock()
		held = append(held, p)
		full := len(held) == 16
		mu.Unlock()
		if full {
			flush()
		} else {
			time.AfterFunc(5*time.Millisecond, flush) // the last ones
		}
	})
	var senders sync.WaitGroup
	for i := range 64 {
		senders.Go(func() {
			for range 50 {
				key, want := "k", Confirmed
				if i%2 == 0 {
					key, want = "nobody", Returned
				}
				if r := p.Submit(t.Context(), delivery("x", key)).Wait(t.Context()); r.Outcome != want {
					t.Errorf("by %s: %v (%v), want %v", key, r.Outcome, r.Err, want)
					return
				}
			}
		})
	}
	senders.Wait()
}

func TestANackIsToldAndNotPublishedAgain(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Script((*amqptest.Publish).Nack)
	for range 10 {
		w := submit(t.Context(), p, delivery("x", "k"))
		w.want(t, Rejected)
		if n := len(w.copies(b)); n != 1 {
			t.Errorf("published %d times", n)
		}
	}
}

func TestALateAnswerIsToldOnceItsReturnIsKnown(t *testing.T) {
	leavesNothing(t)
	for name, tt := range map[string]struct {
		answer func(*amqptest.Publish)
		want   Outcome
	}{
		"an ack":             {(*amqptest.Publish).Ack, Confirmed},
		"a nack":             {(*amqptest.Publish).Nack, Rejected},
		"returned":           {(*amqptest.Publish).Unroutable, Returned},
		"an ack for many":    {(*amqptest.Publish).AckUpTo, Confirmed},
		"its channel closes": {func(p *amqptest.Publish) { p.CloseChannel(406, "PRECONDITION_FAILED - late") }, InDoubt},
		"reset":              {(*amqptest.Publish).Reset, InDoubt},
	} {
		t.Run(name, func(t *testing.T) {
			b := amqptest.Start(t)
			p := start(t, settings(b.URL()), "x")
			b.Script(hold)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := submit(ctx, p, delivery("x", "k"))
			at := arrived(t, b, w)
			cancel()
			w.want(t, InDoubt)
			tt.answer(at[0])
			if r := w.late(t); r.Outcome != tt.want {
				t.Errorf("late: %v (%v), want %v", r.Outcome, r.Err, tt.want)
			}
			if s := p.Status(); s.Unconfirmed != 0 {
				t.Errorf("%d messages are in the window still", s.Unconfirmed)
			}
		})
	}
}

func TestQueuesThatNeverConfirmAreLeftToThemselvesAndDelayNobody(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	var mute []*amqptest.Publish // guarded by the double: scripts run one at a time
	b.Script(func(p *amqptest.Publish) {
		if p.RoutingKey == "k" {
			p.Ack()
			return
		}
		mute = append(mute, p)
	})
	const tenants = 5
	key := func(i int) string { return fmt.Sprintf("mute%d", i) }
	for i := range tenants {
		for range missesToOpen {
			timeout := make(confirmTimeout)
			w := submit(timeout, p, delivery("x", key(i)))
			submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
			w.misses(t, b, timeout)
		}
	}
	before := len(b.Published())
	for i := range tenants {
		if r := submit(t.Context(), p, delivery("x", key(i))).want(t, Rejected); !errors.Is(r.Err, errBreaker) {
			t.Errorf("%v", r.Err)
		}
	}
	for range 50 {
		submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	}
	if n := len(b.Published()); n != before+50 {
		t.Errorf("%d messages arrived after the breakers opened, want only the others' 50", n-before)
	}
	if s := p.Status(); len(s.Breakers) != tenants || s.Unconfirmed != 0 {
		t.Errorf("status: breakers %v, %d unconfirmed", s.Breakers, s.Unconfirmed)
	}
	b.Script((*amqptest.Publish).Ack)
	for _, m := range mute {
		m.Ack()
	}
	until(t, faultPatience, func() bool { return len(p.Status().Breakers) == 0 })
	for i := range tenants {
		submit(t.Context(), p, delivery("x", key(i))).want(t, Confirmed)
	}
}

func TestWhatIsUnconfirmedWhenThePublisherStopsIsInDoubt(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := New(discard())
	change, err := p.Prepare(t.Context(), settings(b.URL()))
	if err != nil {
		t.Fatal(err)
	}
	change.Commit()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	verify(t, p, "x")
	b.Script(hold)
	w := submit(t.Context(), p, delivery("x", "k"))
	arrived(t, b, w)
	stop()
	running.Wait()
	w.want(t, InDoubt)
	b.Await("the connections are closed", func() bool { return b.Connections() == 0 })
}

func TestWhoeverWaitsForTheBrokerIsToldThatTheTimeIsOver(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.AwaitAvailable(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, and the replay asks for ever", err)
	}
}
