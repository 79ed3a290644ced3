package publish

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/routes/config"
)

func TestAConnectionThatEndsUnderAMessageLeavesItInDoubtAndTheNextTryHasTheSameID(t *testing.T) {
	leavesNothing(t)
	for name, script := range map[string]func(*amqptest.Publish){
		"reset":              (*amqptest.Publish).Reset,
		"closed by force":    func(p *amqptest.Publish) { p.CloseConnection(320, "CONNECTION_FORCED - shutdown") },
		"half a frame":       (*amqptest.Publish).HalfAck, // and no heartbeats
		"an error":           func(p *amqptest.Publish) { p.CloseConnection(541, "INTERNAL_ERROR") },
		"reset after an ack": func(p *amqptest.Publish) { p.Ack(); p.Reset() }, // which may have overtaken it
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := amqptest.Start(t)
			c := settings(b.URL())
			c.Heartbeat = 2 * time.Second
			p := start(t, c, "x")
			b.Script(func(m *amqptest.Publish) {
				if m.N > 1 {
					m.Ack()
					return
				}
				script(m)
			})
			w := submit(t.Context(), p, delivery("x", "k"))
			arrived(t, b, w)
			if r := w.want(t, InDoubt, Confirmed); r.Outcome == Confirmed {
				return // published again by itself, or the ack was first
			}
			untilConfirmed(t, p, w.Delivery)
			if n := len(w.copies(b)); n != 2 {
				t.Errorf("%d copies with one id", n)
			}
		})
	}
}

func TestAPeerFrozenUnderALargeMessageFreesTheWriter(t *testing.T) {
	leavesNothing(t)
	for name, freeze := range map[string]func(*amqptest.Broker){
		"frozen both ways": (*amqptest.Broker).Freeze,
		"not reading":      (*amqptest.Broker).StopReading, // its heartbeats still come
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := amqptest.Start(t)
			c := settings(b.URL())
			c.Heartbeat = 2 * time.Second
			c.MaxMessageSize = 64 << 20
			c.ConnectTimeout = 5 * time.Second // what a connection costs that is tried too early
			p := start(t, c, "x")
			submit(t.Context(), p, bulky("x", 2<<20)).want(t, Confirmed) // the bulk lane is open
			freeze(b)
			w := submit(t.Context(), p, bulky("x", 20<<20))
			w.want(t, InDoubt, Unavailable)
			b.Thaw()
			untilConfirmed(t, p, delivery("x", "k"))
			untilConfirmed(t, p, w.Delivery)
			if s := p.Status(); s.Unconfirmed != 0 || s.Queued != 0 {
				t.Errorf("%d queued, %d unconfirmed", s.Queued, s.Unconfirmed)
			}
		})
	}
}

// The broker says that it does not read, so that a write may take ten minutes.
func TestTheEndOfAPublisherDoesNotWaitForAWriteThatIsStuck(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := New(discard())
	change, err := p.Prepare(t.Context(), settings(b.URL()))
	if err != nil {
		t.Fatal(err)
	}
	change.Verify([]string{"x"})
	change.Commit()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		p.Run(ctx)
		close(ended)
	}()
	b.Block("low on memory")
	w := submit(t.Context(), p, bulky("x", 50<<20))
	until(t, faultPatience, func() bool { return p.Status().State == Blocked })
	stop()
	select {
	case <-ended:
	case <-time.After(faultPatience):
		t.Error("it has not ended")
	}
	w.want(t, InDoubt)
}

func TestAnAlarmUnderALargeMessageIsToldToItsSenderAndToWhoeverWaitsBehindItAtOnce(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	submit(t.Context(), p, bulky("x", 2<<20)).want(t, Confirmed) // the bulk lane is open
	b.Block("low on memory")
	w := submit(t.Context(), p, bulky("x", 50<<20))
	until(t, faultPatience, func() bool { return p.bulk.window.load().messages == 1 })
	behind := submit(t.Context(), p, bulky("x", 20<<20)) // over the listener's share of the window
	w.want(t, InDoubt)
	if r := behind.want(t, Unavailable); !strings.Contains(r.Err.Error(), "low on memory") {
		t.Errorf("refused for %v", r.Err)
	}
	b.Unblock()
	if r := w.late(t); r.Outcome != Confirmed {
		t.Errorf("late: %v: %v", r.Outcome, r.Err)
	}
	verify(t, p, "x")
	submit(t.Context(), p, bulky("x", 2<<20)).want(t, Confirmed)
	if s := p.Status(); s.Unconfirmed != 0 || s.Queued != 0 {
		t.Errorf("%d queued, %d unconfirmed", s.Queued, s.Unconfirmed)
	}
}

func TestAnAlarmLeavesWhatIsUnderWayInDoubtRefusesTheRestAndTellsTheLateAck(t *testing.T) {
	leavesNothing(t)
	for name, early := range map[string]bool{"while it runs": false, "at start already": true} {
		t.Run(name, func(t *testing.T) {
			b := amqptest.Start(t)
			if early {
				b.Block("low on memory")
			}
			p := start(t, settings(b.URL()), "x")
			if !early {
				submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
				b.Block("low on memory")
			}
			w := submit(t.Context(), p, delivery("x", "k"))
			w.want(t, InDoubt)
			if r := submit(t.Context(), p, delivery("x", "k")).want(t, Unavailable); !strings.Contains(r.Err.Error(), "low on memory") {
				t.Errorf("refused for %v", r.Err)
			}
			if s := p.Status(); s.State != Blocked || p.Available() {
				t.Errorf("state %s", s.State)
			}
			b.Unblock()
			if r := w.late(t); r.Outcome != Confirmed {
				t.Errorf("late: %v: %v", r.Outcome, r.Err)
			}
			if err := p.AwaitAvailable(within(t, faultPatience)); err != nil {
				t.Fatal(err)
			}
			submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
			if n := len(w.copies(b)); n != 1 {
				t.Errorf("%d copies of what was confirmed late", n)
			}
		})
	}
}

func TestAConnectionLostUnderAnAlarmLeavesInDoubtWhatMayHaveArrived(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Block("low on memory")
	w := submit(t.Context(), p, delivery("x", "k"))
	w.want(t, InDoubt)
	b.Reset()
	if r := w.late(t); r.Outcome != InDoubt {
		t.Errorf("late: %v: %v", r.Outcome, r.Err)
	}
	b.Unblock()
	untilConfirmed(t, p, w.Delivery)
}

func TestABrokerThatFlapsConfirmsOnlyWhatItAcked(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	acked := map[string]bool{} // guarded by the double until the senders have ended
	b.Script(func(p *amqptest.Publish) {
		acked[p.MessageId] = true
		p.Ack()
	})
	var mu sync.Mutex
	confirmed := map[string]bool{}
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d := delivery("x", "k")
				switch r := p.Submit(t.Context(), d).Wait(t.Context()); r.Outcome {
				case Confirmed:
					mu.Lock()
					confirmed[d.ID.String()] = true
					mu.Unlock()
				case InDoubt, Unavailable:
					_ = p.AwaitAvailable(within(t, faultPatience))
				default:
					t.Errorf("%v: %v", r.Outcome, r.Err)
				}
			}
		})
	}
	for range 20 {
		n := len(b.Published())
		b.AwaitPublished(n + 50)
		b.Refuse(true)
		b.Reset()
		until(t, faultPatience, func() bool { return !p.Available() })
		b.Refuse(false)
	}
	close(stop)
	senders.Wait()
	for id := range confirmed {
		if !acked[id] {
			t.Errorf("%s is called confirmed", id)
		}
	}
	t.Logf("%d confirmed, %d arrived", len(confirmed), len(b.Published()))
}

func TestWhoeverTakesNoMailIsPassedOverForTheNextURLAndNoSecretIsLogged(t *testing.T) {
	leavesNothing(t)
	for name, tt := range map[string]struct {
		spoil   func(*amqptest.Broker)
		why     string
		timeout time.Duration
	}{
		"accepts and stays silent": {(*amqptest.Broker).Freeze, "did not answer within ", time.Second}, // it takes it all
		"refuses connections":      {func(b *amqptest.Broker) { b.Refuse(true) }, "connection refused", patience},
		"wrong password":           {func(b *amqptest.Broker) { b.Require(amqptest.Login{User: "guest", Password: "other"}) }, "password", patience},
		"no such vhost":            {func(b *amqptest.Broker) { b.Vhost("elsewhere") }, "virtual host", patience},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := amqptest.Start(t), amqptest.Start(t)
			for _, b := range []*amqptest.Broker{bad, good} {
				b.Require(amqptest.Login{User: "guest", Password: "s3cret"})
			}
			tt.spoil(bad)
			withSecret := func(b *amqptest.Broker) string { return strings.Replace(b.URL(), "guest@", "s3cret@", 1) }
			var log logtest.Buffer
			p := New(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			c := settings(withSecret(bad))
			p.config = &config.AMQP{} // to wait for an answer that long
			c.ConnectTimeout = tt.timeout
			alone, err := p.Prepare(t.Context(), c)
			if err != nil || alone.Warning == nil || !strings.Contains(alone.Warning.Error(), tt.why) {
				t.Fatalf("alone: %v, warning %v, want %q", err, alone.Warning, tt.why)
			}
			alone.Abort()
			c.URLs = append(c.URLs, withSecret(good))
			change, err := p.Prepare(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			change.Commit()
			runUntilEnd(t, p)
			verify(t, p, "x")
			submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
			if n := len(good.Published()); n != 1 {
				t.Errorf("%d messages arrived at the good one", n)
			}
			if strings.Contains(log.String(), "s3cret") {
				t.Errorf("the log tells the password:\n%s", log.String())
			}
		})
	}
}

func TestAReloadTriesEachURLWithinOneConnectTimeoutAndNamesThoseThatDidNotAnswer(t *testing.T) {
	leavesNothing(t)
	old, silent, good := amqptest.Start(t), amqptest.Start(t), amqptest.Start(t)
	p := start(t, settings(old.URL()))
	silent.Freeze()
	c := settings(silent.URL())
	c.URLs, c.ConnectTimeout = []string{silent.URL(), silent.URL(), good.URL()}, 3*time.Second
	change, err := p.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if n := good.Connections(); n != 1 {
		t.Errorf("%d connections to the broker that answers", n)
	}
	change.Abort()
	good.Refuse(true)
	_, err = p.Prepare(t.Context(), c)
	says := "broker " + silent.Addr() + ` takes the connection and did not answer within 1s; `
	want := says + says + "broker " + good.Addr() + ` is not there: connection refused \(the connection in use stays\)`
	if err == nil || !regexp.MustCompile("^"+want+"$").MatchString(err.Error()) {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	must(t, p, delivery("x", "k"), Confirmed)
}

func TestWhatIsGivenUpBeforeItsConnectionIsThereIsNotPublishedAfterwards(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Freeze()
	soon := within(t, 50*time.Millisecond)
	w := submit(soon, p, bulky("x", 2<<20)) // for the second connection, which is not opened before
	b.Await("the second connection", func() bool { return b.Attempts() == 2 })
	w.want(t, Unavailable)
	b.Thaw()
	submit(t.Context(), p, bulky("x", 2<<20)).want(t, Confirmed)
	if n := len(w.copies(b)); n != 0 {
		t.Errorf("%d copies arrived", n)
	}
	if s := p.Status(); s.Unconfirmed != 0 || s.Queued != 0 {
		t.Errorf("%d queued, %d unconfirmed", s.Queued, s.Unconfirmed)
	}
}

func TestABrokerThatWorkedAndThenBreaksItsFramesIsNotTakenForAnotherService(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	var log logtest.Buffer
	p := New(log.Logger())
	change, err := p.Prepare(t.Context(), settings(b.URL()))
	if err != nil {
		t.Fatal(err)
	}
	change.Commit()
	runUntilEnd(t, p)
	verify(t, p, "x")
	b.Script((*amqptest.Publish).Garbage)
	w := submit(t.Context(), p, delivery("x", "k"))
	arrived(t, b, w)
	b.Script((*amqptest.Publish).Ack)
	w.want(t, InDoubt, Confirmed)
	untilConfirmed(t, p, w.Delivery)
	if told := log.String(); !strings.Contains(told, "sent what is not AMQP 0-9-1") || strings.Contains(told, "is that its port") {
		t.Errorf("logged\n%s", told)
	}
}
