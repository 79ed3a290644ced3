package publish

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes/config"
)

func TestWhatABrokerKilledUnderLoadDidNotConfirmIsNeverCalledConfirmed(t *testing.T) {
	broker := rabbit.New(t, rabbit.Options{})
	inbox := rabbit.Queue(t, broker.URL())
	c := settings(broker.URL())
	// A RabbitMQ 3.10 that is killed may come back without a binding that is new.
	c.Topology.Bindings = []config.Binding{{Exchange: inbox.Name, Queue: inbox.Name, RoutingKey: "#"}}
	p := start(t, c)
	confirmed := map[string]bool{}
	var mu sync.Mutex
	var senders sync.WaitGroup
	enough := make(chan struct{})
	for range 16 {
		senders.Go(func() {
			for {
				d := delivery(inbox.Name, "k")
				r := p.Submit(t.Context(), d).Wait(t.Context())
				if r.Outcome != Confirmed {
					if r.Outcome != InDoubt && r.Outcome != Unavailable {
						t.Errorf("a killed broker gives %v: %v", r.Outcome, r.Err)
					}
					return
				}
				mu.Lock()
				confirmed[d.ID.String()] = true
				if len(confirmed) == 500 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	broker.Kill()
	senders.Wait()
	if p.Available() {
		t.Error("the publisher calls a dead broker available")
	}
	if r := p.Submit(t.Context(), delivery(inbox.Name, "k")).Wait(t.Context()); r.Outcome != Unavailable {
		t.Errorf("without a broker: %v", r.Outcome)
	}
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if r := p.Submit(t.Context(), delivery(inbox.Name, "k")).Wait(t.Context()); r.Outcome != Confirmed {
		t.Errorf("after the restart: %v: %v", r.Outcome, r.Err)
	}
	for _, m := range rabbit.Drain(t, inbox, len(confirmed)+1, patience) {
		delete(confirmed, m.MessageId)
	}
	if len(confirmed) > 0 {
		t.Errorf("%d confirmed messages are not in the queue", len(confirmed))
	}
}

func TestABlockedBrokerReleasesWhoeverWaitsAndTellsTheLateAck(t *testing.T) {
	broker := rabbit.New(t, rabbit.Options{})
	inbox := rabbit.Queue(t, broker.URL())
	p := start(t, settings(broker.URL()))
	if err := broker.Alarm(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	first := p.Submit(t.Context(), delivery(inbox.Name, "k"))
	r := first.Wait(within(t, patience))
	if r.Outcome != InDoubt {
		t.Fatalf("published into an alarm: %v: %v", r.Outcome, r.Err)
	}
	if s := p.Status(); s.State != Blocked {
		t.Errorf("state %s: %s", s.State, s.Error)
	}
	if r := p.Submit(t.Context(), delivery(inbox.Name, "k")).Wait(t.Context()); r.Outcome != Unavailable {
		t.Errorf("while blocked: %v: %v", r.Outcome, r.Err)
	}
	late := make(chan Result, 1)
	first.Late(func(r Result) { late <- r })
	if err := broker.Alarm(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-late:
		if r.Outcome != Confirmed {
			t.Errorf("after the alarm: %v: %v", r.Outcome, r.Err)
		}
	case <-time.After(patience):
		t.Error("no late result")
	}
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Error(err)
	}
}

func TestWithoutABrokerPreparingWarnsAndSubmittingIsRefusedAtOnce(t *testing.T) {
	p := New(slog.New(slog.DiscardHandler))
	change, err := p.Prepare(t.Context(), settings("amqp://guest:guest@127.0.0.1:1/"))
	if err != nil || change.Warning == nil {
		t.Fatalf("err %v, warning %v", err, change.Warning)
	}
	change.Commit()
	r := p.Submit(t.Context(), delivery("x", "k")).Wait(t.Context())
	if r.Outcome != Unavailable || r.Err == nil {
		t.Errorf("%v: %v", r.Outcome, r.Err)
	}
}

// silence is a broker that accepts connections and says nothing. It hands them out.
func silence(t *testing.T) (url string, accepted chan net.Conn) {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	accepted = make(chan net.Conn, 10)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return "amqp://guest:guest@" + silent.Addr().String() + "/", accepted
}

func TestAnAttemptToConnectThatAReloadOvertookEndsAndSaysNothingOfTheNewBroker(t *testing.T) {
	url, accepted := silence(t)
	c := settings(url)
	c.ConnectTimeout = time.Hour
	p := runAway(t, discard(), c) // the start does not wait for it
	defer (<-accepted).Close()
	attempt := <-accepted
	broker := amqptest.Start(t)
	change, err := p.Prepare(t.Context(), settings(broker.URL()))
	if err != nil {
		t.Fatal(err)
	}
	change.Verify([]string{"x"})
	change.Commit()
	if _, err := io.Copy(io.Discard, attempt); err != nil { // until they hang up
		t.Fatal(err)
	}
	attempt.Close()
	until(t, patience, func() bool { return len(p.live.changed) == 0 }) // the line has gone on from it
	if err := p.refusing(); err != nil {
		t.Errorf("connected, but %v", err)
	}
	must(t, p, delivery("x", "k"), Confirmed)
	broker.Reset()
	until(t, patience, func() bool { return broker.Attempts() == 2 })
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	must(t, p, delivery("x", "after"), Confirmed)
}

func TestAReloadToABrokerThatDoesNotAnswerIsRejectedWhereTheOldOneHasComeBackMeanwhile(t *testing.T) {
	url, accepted := silence(t)
	broker := amqptest.Start(t)
	broker.Refuse(true)
	p := runAway(t, discard(), settings(broker.URL()))
	c := settings(url)
	c.ConnectTimeout = time.Hour
	prepared := make(chan error, 1)
	go func() {
		_, err := p.Prepare(t.Context(), c)
		prepared <- err
	}()
	attempt := <-accepted
	broker.Refuse(false)
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	attempt.Close()
	if err := <-prepared; err == nil || !strings.Contains(err.Error(), "the connection in use stays") {
		t.Errorf("error %v", err)
	}
	must(t, p, delivery("x", "k"), Confirmed)
}

func TestAConnectionMadeWhileAReloadToADeadBrokerWasPreparedIsLeftAtItsCommit(t *testing.T) {
	broker, next := amqptest.Start(t), amqptest.Start(t)
	broker.Refuse(true)
	next.Refuse(true)
	p := runAway(t, discard(), settings(broker.URL()))
	change, err := p.Prepare(t.Context(), settings(next.URL()))
	if err != nil || change.Warning == nil {
		t.Fatalf("err %v, warning %v", err, change.Warning)
	}
	broker.Refuse(false)
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	change.Commit()
	must(t, p, delivery("x", "k"), Unavailable)
	next.Refuse(false)
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	must(t, p, delivery("x", "k"), Confirmed)
	if n := len(next.Published()); n != 1 {
		t.Errorf("%d messages at the broker of the configuration", n)
	}
}

func TestABrokerThatAcceptsAndStaysSilentIsGivenUpAndSoIsAnAttemptWhoseContextEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := settings("amqp://guest:guest@" + silent.Addr().String() + "/")
	c.ConnectTimeout = 100 * time.Millisecond
	if _, err := connectOnce(t.Context(), c); err == nil {
		t.Error("connected to nobody")
	}
	c.ConnectTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := silent.Accept()
		if err == nil {
			defer conn.Close()
			cancel()
			conn.Read(make([]byte, 100)) // the protocol header
			conn.Read(make([]byte, 100)) // until they hang up
		}
	}()
	if _, err := connectOnce(ctx, c); err == nil {
		t.Error("connected to nobody")
	}
}

func connectOnce(ctx context.Context, c *config.AMQP) (*link, error) {
	p := New(slog.New(slog.DiscardHandler))
	return p.connect(ctx, c, p.live.line)
}

func TestAnOutageIsALineAndWhatWaitingDoesNotMendIsTold(t *testing.T) {
	broker := rabbit.Shared(t)
	proxy, err := faultnet.NewProxy(broker.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	p := New(log.Logger())
	change, err := p.Prepare(t.Context(), settings("amqp://guest:wrong-secret@"+proxy.Addr()+"/"))
	if err != nil || change.Warning == nil {
		t.Fatalf("err %v, warning %v", err, change.Warning)
	}
	change.Commit()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	until(t, patience, func() bool { return strings.Contains(log.String(), "the password") })
	want := []string{"broker away: mail is spooled until it is back", "broker still away: it refuses the user or the password"}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], want[0]) || !strings.Contains(lines[1], want[1]) || strings.Contains(log.String(), "wrong-secret") {
		t.Errorf("logged\n%s", log.String())
	}
}
