package gateway

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

// desk is an operator's: a spool that no daemon has, and a broker.
type desk struct {
	*Spooled
	t   testing.TB
	ids []uuid.UUID // of the mail in the spool, oldest first
}

// newDesk spools n mails and connects to the double.
func newDesk(t testing.TB, double *amqptest.Broker, n int) *desk {
	t.Helper()
	o, err := OpenSpooled(filepath.Join(t.TempDir(), "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{Spooled: o, t: t}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	d.fill(n)
	c := &config.Config{AMQP: config.AMQP{URLs: []string{double.URL()}, ConnectTimeout: 10 * time.Second, ConfirmTimeout: 10 * time.Second, Buffer: 100}}
	if err := o.Connect(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return d
}

// fill puts n more mails into the spool in use.
func (d *desk) fill(n int) {
	d.t.Helper()
	s := d.g.store.spools[0]
	for range n {
		m := delivery()
		if err := s.Put(m); err != nil {
			d.t.Fatal(err)
		}
		s.Settle(m.ID, false)
		m.Content.Release()
		d.ids = append(d.ids, m.ID)
	}
}

// left are the mails in the spool, oldest first.
func (d *desk) left() []spool.Entry {
	d.t.Helper()
	all, err := ParseFilter(url.Values{})
	if err != nil {
		d.t.Fatal(err)
	}
	var entries []spool.Entry
	for e, err := range d.Entries(d.t.Context(), all) {
		if err != nil {
			d.t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// told gathers what a Replay tells.
type told map[Result]int

func (r told) each(o Outcome) error { r[o.Result]++; return nil }

func TestAn_operators_replay_begins_with_one_and_tries_one_more_for_each_that_is_delivered(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 60)
	var mu sync.Mutex
	var waiting []*amqptest.Publish
	delivered, most := 0, 0
	b.Script(func(p *amqptest.Publish) { // answers when the window must be full
		mu.Lock()
		defer mu.Unlock()
		waiting = append(waiting, p)
		window := min(1+delivered, maxOperatorWindow)
		if len(waiting) > window {
			t.Errorf("message %d is the %dth on its way after %d were delivered", p.N, len(waiting), delivered)
		}
		if len(waiting) == window || p.N == 60 {
			most = max(most, len(waiting))
			for _, p := range waiting {
				p.Ack()
			}
			delivered += len(waiting)
			waiting = nil
		}
	})
	got := told{}
	done := make(chan error, 1)
	go func() { done <- d.Replay(t.Context(), d.ids, nil, got.each) }()
	if err := <-done; err != nil || got[Delivered] != 60 || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if most != maxOperatorWindow {
		t.Errorf("at most %d at once", most)
	}
	if first := b.Published()[0].MessageId; first != d.ids[0].String() {
		t.Errorf("the first is %s, the oldest is %s", first, d.ids[0])
	}
	if left := d.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAn_operators_replay_that_is_stopped_ends_what_is_under_way_and_begins_no_more(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 3)
	b.Script(func(*amqptest.Publish) {})
	ctx, stop := context.WithCancel(t.Context())
	got, done := told{}, make(chan error, 1)
	go func() { done <- d.Replay(ctx, d.ids, nil, got.each) }()
	first := b.AwaitPublished(1)[0]
	stop()
	first.Ack()
	if err := <-done; !errors.Is(err, context.Canceled) || got[Delivered] != 1 || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if left := d.left(); len(left) != 2 || len(b.Published()) != 1 {
		t.Errorf("%d left, %d published", len(left), len(b.Published()))
	}
}

func TestWhat_the_broker_does_not_take_stays_with_the_reason(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 3)
	b.Script(func(p *amqptest.Publish) {
		switch p.MessageId {
		case d.ids[0].String():
			p.Unroutable()
		case d.ids[1].String():
			p.Nack()
		default:
			p.Ack()
		}
	})
	reasons := map[uuid.UUID]Outcome{}
	err := d.Replay(t.Context(), d.ids, nil, func(o Outcome) error { reasons[o.ID] = o; return nil })
	if err != nil || reasons[d.ids[0]].Result != Refused || reasons[d.ids[1]].Result != Refused || reasons[d.ids[2]].Result != Delivered {
		t.Errorf("%v, %v", reasons, err)
	}
	left := d.left()
	if len(left) != 2 || left[0].Attempts != 1 || !strings.Contains(left[0].LastError, "NO_ROUTE") || left[0].LastError != reasons[d.ids[0]].Reason {
		t.Errorf("left: %+v", left)
	}
}

func TestMail_that_is_not_confirmed_in_time_stays_until_the_broker_says_more(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 1)
	d.g.running.Load().table.Config.AMQP.ConfirmTimeout = 50 * time.Millisecond
	b.Script(func(*amqptest.Publish) {})
	got := told{}
	if err := d.Replay(t.Context(), d.ids, nil, got.each); err != nil || got[Undecided] != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if len(d.left()) != 1 {
		t.Error("it is gone from the spool")
	}
	if o := d.remove(d.ids[0]); o.Result != Busy {
		t.Errorf("removed while it is published: %v", o)
	}
	b.Published()[0].Ack()
	eventually(t, "the late confirm removes the file", func() bool { return len(d.left()) == 0 })
}

func TestMail_that_somebody_else_is_publishing_is_awaited(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 1)
	b.Script(func(*amqptest.Publish) {})
	results := make(chan told, 2)
	for range 2 {
		go func() {
			got := told{}
			if err := d.Replay(t.Context(), d.ids, nil, got.each); err != nil {
				t.Error(err)
			}
			results <- got
		}()
	}
	b.AwaitPublished(1)[0].Ack()
	one, other := <-results, <-results
	if one[Delivered]+other[Delivered] != 1 || one[Gone]+other[Gone] != 1 || len(b.Published()) != 1 {
		t.Errorf("%v and %v of %d published", one, other, len(b.Published()))
	}
}

func TestMail_sent_elsewhere_has_that_destination_from_then_on(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 1)
	b.Script(func(p *amqptest.Publish) { p.Unroutable() })
	got := told{}
	to := &Destination{Exchange: "elsewhere", RoutingKey: "k"}
	if err := d.Replay(t.Context(), d.ids, to, got.each); err != nil || got[Refused] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if p := b.Published()[0]; p.Exchange != "elsewhere" || p.RoutingKey != "k" || p.MessageId != d.ids[0].String() {
		t.Errorf("published %s to %s:%s", p.MessageId, p.Exchange, p.RoutingKey)
	}
	if left := d.left(); len(left) != 1 || left[0].Exchange != "elsewhere" || left[0].RoutingKey != "k" {
		t.Errorf("left: %+v", left)
	}
	to.Exchange = strings.Repeat("x", 256)
	if err := d.Replay(t.Context(), d.ids, to, got.each); err != nil || got[Failed] != 1 || d.left()[0].Exchange != "elsewhere" {
		t.Errorf("a name too long for AMQP: %v, %v", got, err)
	}
}

func TestA_broker_that_goes_away_ends_the_replay_and_the_rest_stays(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 10)
	b.Script(func(p *amqptest.Publish) {
		if p.N < 3 {
			p.Ack()
			return
		}
		b.Refuse(true)
		p.CloseConnection(320, "CONNECTION_FORCED - shut down")
	})
	got := told{}
	err := d.Replay(t.Context(), d.ids, nil, got.each)
	if !errors.Is(err, ErrAway) || got[Delivered] != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if left := d.left(); len(left) != 8 {
		t.Errorf("%d left", len(left))
	}
	if err := d.Replay(t.Context(), d.ids, nil, got.each); !errors.Is(err, ErrAway) {
		t.Errorf("another replay: %v", err)
	}
}

func TestMail_is_not_sent_to_a_destination_that_the_broker_calls_missing(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 2)
	b.Exchange("typo", amqptest.Missing)
	b.Queue("no-queue", amqptest.Missing)
	before := d.left()
	for _, to := range []Destination{{Exchange: "typo", RoutingKey: "k"}, {RoutingKey: "no-queue"}} {
		got := told{}
		err := d.Replay(t.Context(), d.ids, &to, got.each)
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "NOT_FOUND") || len(got) > 0 || len(b.Published()) > 0 {
			t.Errorf("%+v: %v, %v", to, got, err)
		}
	}
	for i, e := range d.left() {
		if e.Exchange != before[i].Exchange || e.RoutingKey != before[i].RoutingKey || e.AcceptedFor != nil {
			t.Errorf("left: %+v", e)
		}
	}
	got := told{}
	if err := d.Replay(t.Context(), d.ids, &Destination{RoutingKey: "a-queue"}, got.each); err != nil || got[Delivered] != 2 {
		t.Errorf("to a queue that is there: %v, %v", got, err)
	}
}

func TestMail_sent_elsewhere_has_that_destination_though_the_broker_is_away(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 70)
	b.Script(func(p *amqptest.Publish) {
		b.Refuse(true)
		p.CloseConnection(320, "CONNECTION_FORCED - shut down")
	})
	for _, exchange := range []string{"goes away", "is away"} {
		got, moved := told{}, 0
		err := d.Replay(t.Context(), d.ids, &Destination{Exchange: exchange, RoutingKey: "k"}, func(o Outcome) error {
			if o.Moved && o.Result != Moved {
				moved++
			}
			return got.each(o)
		})
		if !errors.Is(err, ErrAway) || got[Untried]+got[Undecided] != 70 || got[Untried] < 69 || moved != 70 {
			t.Errorf("%s: %v, %d moved, %v", exchange, got, moved, err)
		}
		eventually(t, "the one that was published is decided", func() bool { return d.g.store.spools[0].Status().Held == 0 })
		left := d.left()
		for _, e := range left {
			if e.Exchange != exchange || e.RoutingKey != "k" {
				t.Fatalf("%s: left %+v", exchange, e)
			}
		}
		if len(left) != 70 {
			t.Errorf("%d left", len(left))
		}
	}
}

func TestA_store_that_stops_ends_a_replay_and_is_not_taken_for_an_empty_one(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 3)
	b.Script(func(*amqptest.Publish) {})
	done := make(chan error, 1)
	go func() { done <- d.Replay(t.Context(), d.ids, nil, told{}.each) }()
	b.AwaitPublished(1)
	d.g.store.stopReplay() // waits for the replay, which waits for nobody
	if err := <-done; !errors.Is(err, errStopping) {
		t.Errorf("the one under way: %v", err)
	}
	if err := d.Replay(t.Context(), d.ids, nil, told{}.each); !errors.Is(err, errStopping) {
		t.Errorf("another one: %v", err)
	}
	all, _ := ParseFilter(url.Values{})
	n := 0
	for e, err := range d.Entries(t.Context(), all) {
		if n++; !errors.Is(err, errStopping) {
			t.Errorf("an entry: %v, %v", e, err)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestAn_operators_replay_keeps_replay_rate_and_goes_alone_while_live_mail_is_under_way(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 1)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	r := &operatorReplay{g: d.g, window: 5, next: time.Now().Add(time.Hour), results: make(chan tried)}
	spooling := &d.g.running.Load().table.Config.Spool
	spooling.ReplayRate = 10
	r.begin(stopped, d.ids[0])
	if got := <-r.results; !got.untold {
		t.Errorf("before its time: %+v", got)
	}
	if wait := time.Until(r.next); wait < time.Hour {
		t.Errorf("the next one may begin in %v", wait)
	}
	spooling.ReplayRate = 0
	r.begin(stopped, d.ids[0])
	if got := <-r.results; got.Result != Delivered {
		t.Errorf("without a rate: %+v", got)
	}

	if n := r.room(); n != 5 {
		t.Errorf("room for %d without live mail", n)
	}
	b.Script(func(*amqptest.Publish) {}) // nothing is answered: what is published stays under way
	live, end := context.WithCancel(t.Context())
	defer end()
	eventually(t, "live mail is under way", func() bool { // the first ones go by the bulk lane: their exchange is not verified yet
		m := delivery()
		defer m.Content.Release()
		ticket := d.g.publisher.Submit(live, m)
		go ticket.Wait(live)
		return d.g.store.broker.Live()
	})
	if n := r.room(); n != 1 {
		t.Errorf("room for %d beside live mail", n)
	}
}

func TestAn_operators_replay_that_is_stopped_while_it_moves_tells_of_each_that_it_has_moved(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 3*movedAtOnce)
	ctx, stop := context.WithCancel(t.Context())
	got, others := told{}, 0
	err := d.Replay(ctx, d.ids, &Destination{Exchange: "elsewhere", RoutingKey: "k"}, func(o Outcome) error {
		stop()
		if o.Result == Moved && o.ID != d.ids[0] && others < 2 { // as the daemon's own replay does once it has delivered them
			others++
			return errors.Join(got.each(o), d.g.store.spools[0].Remove(o.ID))
		}
		return got.each(o)
	})
	if !errors.Is(err, context.Canceled) || got[Moved] != movedAtOnce || got[Untried] != movedAtOnce-2 || got[Delivered] != 2 || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	moved := 0
	for _, e := range d.left() {
		if e.Exchange == "elsewhere" {
			moved++
		}
	}
	if moved != movedAtOnce-2 {
		t.Errorf("%d have the new destination", moved)
	}
}

func TestA_store_that_stops_waits_for_the_brokers_word_on_what_is_published(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 2)
	b.Script(func(*amqptest.Publish) {})
	got, done := told{}, make(chan error, 1)
	go func() { done <- d.Replay(t.Context(), d.ids, nil, got.each) }()
	first := b.AwaitPublished(1)[0]
	stopped := make(chan struct{})
	go func() { d.g.store.stopReplay(); close(stopped) }()
	<-d.g.store.ctx.Done()
	first.Ack()
	<-stopped
	if err := <-done; !errors.Is(err, errStopping) {
		t.Errorf("the replay: %v", err)
	}
	if got[Delivered] != 1 || len(got) != 1 {
		t.Errorf("told %v", got)
	}
	if s := d.g.store.spools[0]; s.Waits(d.ids[0]) || !s.Waits(d.ids[1]) {
		t.Error("what the broker confirmed while the store stopped is published again by a start")
	}
}

func TestAn_operators_replay_asks_anew_for_an_exchange_that_was_missing(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 3)
	b.Exchange("x", amqptest.Missing)
	got := told{}
	if err := d.Replay(t.Context(), d.ids[:1], nil, got.each); err != nil || got[Refused]+got[Undecided] != 1 {
		t.Fatalf("while it is missing: %v, %v", got, err)
	}
	eventually(t, "the exchange is in quarantine", func() bool {
		return d.g.publisher.Unusable("x") && d.g.store.spools[0].Status().Held == 0
	})
	failed, err := ParseFilter(url.Values{"failed": {"true"}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range d.Entries(t.Context(), failed) {
		if n++; err != nil || !strings.Contains(e.Waits, "NOT_FOUND") {
			t.Errorf("listed: %+v, %v", e, err)
		}
	}
	if m, err := d.Mail(t.Context(), d.ids[2]); n != 3 || err != nil || m.Attempts != 0 || !strings.Contains(m.Waits, "NOT_FOUND") {
		t.Errorf("%d failed; one that was not tried: %+v, %v", n, m.Entry, err)
	}
	b.Exchange("x", amqptest.Usable)
	got = told{}
	if err := d.Replay(t.Context(), d.ids, nil, got.each); err != nil || got[Delivered] != 3 {
		t.Errorf("when it is there: %v, %v", got, err)
	}
}
