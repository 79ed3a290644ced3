package publish

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// from makes d the listener's.
func from(listener string, d *mail.Delivery) *mail.Delivery {
	d.Envelope.Listener = listener
	return d
}

// large is a delivery whose payload is over what the live lane takes.
func large(exchange, key string) *mail.Delivery {
	d := delivery(exchange, key)
	d.Content = memory.NewContent(bytes.Repeat([]byte("x"), bulkOctets+1), 0, nil)
	return d
}

// replayed is a delivery from the spool.
func replayed(exchange, key string) *mail.Delivery {
	d := delivery(exchange, key)
	d.SpooledAt = time.Now()
	return d
}

// must submits d and fails t unless the outcome is want.
func must(t testing.TB, p *Publisher, d *mail.Delivery, want Outcome) {
	t.Helper()
	if r := p.Submit(t.Context(), d).Wait(within(t, patience)); r.Outcome != want {
		t.Errorf("%s: %v (%v), want %v", d.RoutingKey, r.Outcome, r.Err, want)
	}
}

func TestOnlyMailThatCouldDelayOthersGoesByASecondConnection(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "known")
	must(t, p, delivery("known", "small"), Confirmed)
	must(t, p, delivery("", "to the default exchange"), Confirmed)
	if n := broker.Connections(); n != 1 {
		t.Errorf("%d connections for small mail", n)
	}
	if s := p.Status(); s.Lanes[1].State != Unneeded {
		t.Errorf("the second connection is %s", s.Lanes[1].State)
	}
	must(t, p, large("known", "large"), Confirmed)
	must(t, p, replayed("known", "replayed"), Confirmed)
	must(t, p, delivery("unknown", "not verified"), Confirmed)
	must(t, p, delivery("known", "small again"), Confirmed)
	want := map[string]int{"small": 1, "to the default exchange": 1, "small again": 1, "large": 2, "replayed": 2, "not verified": 2}
	for _, m := range broker.Published() {
		if m.Connection != want[m.RoutingKey] {
			t.Errorf("%s went by connection %d", m.RoutingKey, m.Connection)
		}
	}
}

func TestAnExchangeThatWasNotKnownIsVerifiedOnceThereIsMailForIt(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()))
	must(t, p, delivery("new", "first"), Confirmed)
	until(t, patience, func() bool { verified, _ := p.exchanges.ask("new"); return verified })
	must(t, p, delivery("new", "second"), Confirmed)
	all := broker.Published()
	if all[0].Connection == all[1].Connection {
		t.Error("both went the same way")
	}
}

func TestAMissingExchangeClosesNoLiveChannelAndItsMailFlowsOnceItIsThere(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Exchange("late", amqptest.Missing)
	p := New(discard())
	change, err := p.Prepare(t.Context(), settings(broker.URL()))
	if err != nil {
		t.Fatal(err)
	}
	problems := change.Verify([]string{"good", "late"})
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), `"late"`) {
		t.Errorf("problems %v", problems)
	}
	change.Commit()
	runUntilEnd(t, p)
	for range 50 {
		must(t, p, delivery("late", "late"), Returned)
		must(t, p, delivery("good", "good"), Confirmed)
	}
	channel := broker.Published()[0].Channel
	for _, m := range broker.Published() {
		if m.Channel != channel {
			t.Fatalf("message %d went by channel %d, the first by %d", m.N, m.Channel, channel)
		}
	}
	broker.Exchange("late", amqptest.Usable)
	p.exchanges.probeNow()
	until(t, patience, func() bool { verified, _ := p.exchanges.ask("late"); return verified })
	must(t, p, delivery("late", "late"), Confirmed)
}

func TestAForbiddenExchangeIsAskedForByAPublishThatRoutesNothing(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "locked")
	broker.Exchange("locked", amqptest.Forbidden) // a passive declare still answers
	r := p.Submit(t.Context(), delivery("locked", "k")).Wait(t.Context())
	if r.Outcome != InDoubt {
		t.Errorf("%v: %v", r.Outcome, r.Err)
	}
	p.exchanges.probeNow()
	until(t, patience, func() bool { return p.exchanges.untilNext() > probeSoonest/2 }) // it was asked for
	must(t, p, delivery("locked", "k"), Returned)
	broker.Exchange("locked", amqptest.Usable)
	p.exchanges.probeNow()
	until(t, patience, func() bool { return p.exchanges.fault("locked") == nil })
	must(t, p, delivery("locked", "k"), Confirmed)
}

func TestWhenTheChannelClosesForOneMessageTheOthersAreConfirmedAll(t *testing.T) {
	for _, c := range []struct {
		code    int
		reason  string
		culprit Outcome // of the next message to the same place
	}{
		{amqp.NotFound, "NOT_FOUND - no exchange 'bad' in vhost '/'", Returned},
		{amqp.AccessRefused, "ACCESS_REFUSED - write access to exchange 'bad' in vhost '/' refused for user 'guest'", Returned},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 17 is larger than configured max size 16", InDoubt},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			broker := amqptest.Start(t)
			p := start(t, settings(broker.URL()), "good", "bad")
			broker.Script(func(m *amqptest.Publish) {
				switch {
				case m.Exchange == "bad":
					m.CloseChannel(uint16(c.code), c.reason)
				case m.N > 40: // those before are in doubt when the channel closes
					m.Ack()
				}
			})
			var senders sync.WaitGroup
			for i := range 40 {
				senders.Go(func() { must(t, p, from(fmt.Sprint(i%8), delivery("good", "good")), Confirmed) })
			}
			broker.AwaitPublished(40)
			must(t, p, delivery("bad", "bad"), InDoubt)
			senders.Wait()
			must(t, p, delivery("bad", "bad"), c.culprit)
			must(t, p, delivery("good", "good"), Confirmed)
			copies := map[string]int{}
			for _, m := range broker.Published() {
				if copies[m.MessageId]++; copies[m.MessageId] > 1+maxRepublish {
					t.Errorf("%s %s was published %d times", m.RoutingKey, m.MessageId, copies[m.MessageId])
				}
			}
		})
	}
}

func TestADestinationThatDoesNotConfirmIsLeftAloneAfterThreeMisses(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "x")
	broker.Script(func(m *amqptest.Publish) {
		if m.RoutingKey != "stuck" {
			m.Ack()
		}
	})
	for range missesToOpen {
		timeout := make(confirmTimeout)
		submit(timeout, p, delivery("x", "stuck")).misses(t, broker, timeout)
	}
	must(t, p, delivery("x", "stuck"), Rejected)
	must(t, p, delivery("x", "fine"), Confirmed)
	if s := p.Status(); len(s.Breakers) != 1 || s.Breakers[0].RoutingKey != "stuck" {
		t.Errorf("breakers %v", s.Breakers)
	}
	p.breakers.mu.Lock()
	p.breakers.at[destination{"x", "stuck"}].probe = time.Now()
	p.breakers.mu.Unlock()
	probe := p.Submit(t.Context(), delivery("x", "stuck"))
	must(t, p, delivery("x", "stuck"), Rejected) // one probe at a time
	last := broker.AwaitPublished(missesToOpen + 2)[missesToOpen+1]
	if last.Connection != 2 {
		t.Errorf("the probe went by connection %d", last.Connection)
	}
	last.Ack()
	if r := probe.Wait(t.Context()); r.Outcome != Confirmed {
		t.Errorf("the probe: %v: %v", r.Outcome, r.Err)
	}
	broker.Script((*amqptest.Publish).Ack)
	must(t, p, delivery("x", "stuck"), Confirmed)
}

func TestListenersWhoseQueuesDoNotConfirmLeaveRoomForOthers(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "stuck", "good")
	broker.Script(func(m *amqptest.Publish) {
		if m.Exchange == "good" {
			m.Ack()
		}
	})
	stop := within(t, time.Minute)
	var stuck sync.WaitGroup
	for i := range 6 {
		for j := range windowMessages / 3 {
			stuck.Go(func() { p.Submit(stop, from(fmt.Sprint("stuck", i), delivery("stuck", fmt.Sprint(j)))).Wait(stop) })
		}
	}
	until(t, patience, func() bool { return p.live.window.load().messages > windowMessages/2 && p.live.queue.len() > 500 })
	for range 20 {
		must(t, p, from("good", delivery("good", "good")), Confirmed)
	}
	if n := p.live.window.load().messages; n > windowMessages {
		t.Errorf("%d messages are unconfirmed", n)
	}
	broker.CloseConnections(320, "CONNECTION_FORCED - the test is over")
	broker.Refuse(true)
	stuck.Wait()
}

func TestAChannelIsLeftWhenItsOldestMessageHasWaitedForFiveMinutesAndStillHearsItsConfirm(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "x")
	broker.Script(func(m *amqptest.Publish) {
		if m.RoutingKey != "stuck" {
			m.Ack()
		}
	})
	timeout := make(confirmTimeout)
	w := submit(timeout, p, delivery("x", "stuck"))
	w.misses(t, broker, timeout)
	p.live.channel.ages[0].begun = time.Now().Add(-wornAfter - time.Second) // the lane looks again at the next submit
	must(t, p, delivery("x", "next"), Confirmed)
	all := broker.Published()
	if all[0].Channel == all[1].Channel {
		t.Error("both went by one channel")
	}
	all[0].Ack()
	if r := w.late(t); r.Outcome != Confirmed {
		t.Errorf("the late ack: %v: %v", r.Outcome, r.Err)
	}
	if n := broker.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// grow makes the messages and the probes of p older by d. No message is on its way to a lane.
func grow(p *Publisher, d time.Duration) {
	for _, l := range p.lanes() {
		for _, c := range append(slices.Clone(l.old), l.channel, l.aside, l.wary) {
			if c == nil {
				continue
			}
			for _, a := range c.ages {
				a.begun = a.begun.Add(-d)
			}
		}
		l.renewal = l.renewal.Add(-d)
	}
	p.breakers.mu.Lock()
	defer p.breakers.mu.Unlock()
	for _, b := range p.breakers.at {
		b.probe = b.probe.Add(-d)
	}
}

// stuck leaves what has such a key unanswered.
func stuck(m *amqptest.Publish) {
	if !strings.HasPrefix(m.RoutingKey, "stuck") {
		m.Ack()
	}
}

// miss submits d, which arrives and is not confirmed in time, and returns its ticket.
func miss(t *testing.T, p *Publisher, b *amqptest.Broker, d *mail.Delivery) *Ticket {
	t.Helper()
	timeout := make(confirmTimeout)
	w := submit(timeout, p, d)
	w.misses(t, b, timeout)
	return w.ticket
}

func TestALaneWhoseChannelsAllWaitForConfirmsMovesToAnotherConnectionAndTheRestIsInDoubt(t *testing.T) {
	leavesNothing(t)
	for want, d := range map[int]func(exchange, key string) *mail.Delivery{1: delivery, 2: replayed} {
		t.Run(fmt.Sprint("connections=", want), func(t *testing.T) {
			broker := amqptest.Start(t)
			c := settings(broker.URL())
			c.ConfirmTimeout = 100 * time.Millisecond // the patience with the old connection
			p := start(t, c, "x")
			broker.Script(stuck)
			last := func() *amqptest.Publish { all := broker.Published(); return all[len(all)-1] }
			final := make(chan Result, maxOld+1)
			channels := map[int]bool{}
			first := 0
			for i := range maxOld + 1 {
				miss(t, p, broker, d("x", fmt.Sprint("stuck", i))).Late(func(r Result) { final <- r })
				first = last().Connection
				channels[last().Channel] = true
				grow(p, wornAfter+time.Second)
			}
			if len(channels) != maxOld+1 {
				t.Errorf("by %d channels", len(channels))
			}
			until(t, patience, func() bool {
				must(t, p, d("x", "next"), Confirmed)
				return last().Connection > first
			})
			for range maxOld + 1 {
				if r := <-final; r.Outcome != InDoubt {
					t.Errorf("on the connection before: %v: %v", r.Outcome, r.Err)
				}
			}
			until(t, patience, func() bool { return broker.Connections() == want })
			must(t, p, d("x", "next"), Confirmed)
		})
	}
}

func TestALaneStaysOnAWornChannelWhereNoOtherConnectionIsToBeHad(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "x")
	broker.Script(stuck)
	for i := range maxOld + 1 {
		miss(t, p, broker, delivery("x", fmt.Sprint("stuck", i)))
		grow(p, wornAfter+time.Second)
	}
	broker.Refuse(true)
	must(t, p, delivery("x", "next"), Confirmed)
	must(t, p, delivery("x", "next"), Confirmed)
	all := broker.Published()
	fifth := all[maxOld].Channel
	for _, m := range all[maxOld:] {
		if m.Channel != fifth {
			t.Errorf("%s went by channel %d, the fifth is %d", m.RoutingKey, m.Channel, fifth)
		}
	}
	all[0].Ack()
	until(t, patience, func() bool {
		must(t, p, delivery("x", "next"), Confirmed)
		all := broker.Published()
		return all[len(all)-1].Channel != fifth
	})
	if broker.Attempts() != 1 || broker.Connections() != 1 {
		t.Errorf("%d of %d connections are open", broker.Connections(), broker.Attempts())
	}
}

// An hour of the test's: the messages and the probes grow older, not the clock.
func TestAnHourOfQueuesThatNeverConfirmLeavesTheMemoryFlat(t *testing.T) {
	leavesNothing(t)
	const step, others = 30 * time.Second, 10
	broker := amqptest.Start(t)
	c := settings(broker.URL())
	c.ConfirmTimeout = 20 * time.Millisecond
	p := start(t, c, "x")
	broker.Script(stuck)
	late := map[int]int{} // by channel: what came behind a message that is not answered, and of which the library keeps a record
	behind := map[int]bool{}
	seen, records := 0, 0
	var peaks [2]struct{ goroutines, records int }
	for minute := time.Duration(0); minute < time.Hour; minute += step {
		var tenants sync.WaitGroup
		for i := range 5 {
			tenants.Go(func() {
				soon := within(t, c.ConfirmTimeout)
				p.Submit(soon, from(fmt.Sprint("tenant", i), delivery("x", fmt.Sprint("stuck", i)))).Wait(soon)
			})
		}
		tenants.Wait()
		for range others {
			must(t, p, delivery("x", "live"), Confirmed)
			must(t, p, replayed("x", "bulk"), Confirmed)
		}
		all := broker.Published()
		for _, m := range all[seen:] {
			if behind[m.Channel] {
				late[m.Channel]++
				records = max(records, late[m.Channel])
			}
			behind[m.Channel] = behind[m.Channel] || strings.HasPrefix(m.RoutingKey, "stuck")
		}
		seen = len(all)
		peak := &peaks[minute/(time.Hour/2)]
		peak.goroutines, peak.records = max(peak.goroutines, runtime.NumGoroutine()), max(peak.records, records)
		grow(p, step)
	}
	t.Logf("peaks of the half hours: %+v, %d messages, %d connections", peaks, seen, broker.Attempts())
	if peaks[1].goroutines > peaks[0].goroutines*5/4 || peaks[1].records > peaks[0].records*3/2 {
		t.Errorf("peaks of the half hours: %+v", peaks)
	}
	if n := broker.Connections(); n > 4 {
		t.Errorf("%d connections are open", n)
	}
}

func TestAnAlarmThatOneConnectionTellsOfIsHeededByBoth(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "x")
	must(t, p, large("x", "large"), Confirmed)
	broker.Block("low on memory")
	ticket := p.Submit(t.Context(), large("x", "large"))
	if r := ticket.Wait(t.Context()); r.Outcome != InDoubt {
		t.Errorf("published into an alarm: %v: %v", r.Outcome, r.Err)
	}
	late := make(chan Result, 1)
	ticket.Late(func(r Result) { late <- r })
	must(t, p, delivery("x", "small"), Unavailable)
	if s := p.Status(); s.State != Blocked || !strings.Contains(s.Error, "low on memory") {
		t.Errorf("%s: %s", s.State, s.Error)
	}
	broker.Unblock()
	if r := <-late; r.Outcome != Confirmed {
		t.Errorf("after the alarm: %v: %v", r.Outcome, r.Err)
	}
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Error(err)
	}
	must(t, p, delivery("x", "small"), Confirmed)
}

func TestTopologyThatTheBrokerRefusesIsToldAndStopsNothing(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Queue("other", amqptest.Inequivalent)
	c := settings(broker.URL())
	c.Topology = config.Topology{
		Exchanges: []config.Exchange{{Name: "x", Type: "topic", Durable: true}},
		Queues:    []config.Queue{{Name: "other", Durable: true}, {Name: "q", Durable: true}},
		Bindings:  []config.Binding{{Exchange: "x", Queue: "q", RoutingKey: "#"}},
	}
	broker.Exchange("x", amqptest.Missing)
	p := start(t, c, "x")
	if s := p.Status(); len(s.Topology) != 1 || !strings.Contains(s.Topology[0], "other") {
		t.Errorf("topology faults %v", s.Topology)
	}
	must(t, p, delivery("x", "k"), Confirmed)
	again := *c
	again.Topology.Queues = append(again.Topology.Queues, config.Queue{Name: "added", Durable: true})
	change, err := p.Prepare(t.Context(), &again)
	if err != nil {
		t.Fatal(err)
	}
	if problems := change.Verify([]string{"x"}); len(problems) != 1 {
		t.Errorf("problems %v", problems)
	}
	change.Commit()
	if got := strings.Join(broker.Declared(), "\n"); !strings.Contains(got, "queue added") {
		t.Errorf("declared\n%s", got)
	}
	if broker.Attempts() != 1 {
		t.Error("the connection did not stay")
	}
}

func TestALineThatWasNeverConnectedMayFail(t *testing.T) {
	p := New(slog.New(slog.DiscardHandler))
	p.config = settings("amqp://b/")
	for _, l := range p.lanes() {
		l.failed(p.config, &awayError{broker: "b:5672", reason: "refuses the user or the password", there: true}, time.Second)
	}
}

func TestAnAnswerToWhatWasAskedBeforeAnExchangeWasRefusedDoesNotEndItsQuarantine(t *testing.T) {
	for _, code := range []int{amqp.NotFound, amqp.AccessRefused} {
		e := newExchanges(discard())
		if _, err := e.ask("x"); err != nil {
			t.Fatal(err)
		}
		early := e.due() // whether it exists, which it does
		e.blame("x", &amqp.Error{Code: code, Reason: "ACCESS_REFUSED or NOT_FOUND"})
		e.note(map[string]answer{"x": {early[0], nil}})
		if e.fault("x") == nil {
			t.Errorf("%d: its quarantine has ended", code)
		}
		e.probeNow()
		e.note(map[string]answer{"x": {e.due()[0], nil}})
		if err := e.fault("x"); err != nil {
			t.Errorf("%d: what was asked since does not end it: %v", code, err)
		}
	}
}
