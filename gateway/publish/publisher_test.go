package publish

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestMain(m *testing.M) { rabbit.Main(m) }

// settings are those of a test: the defaults of lsmtpd.yaml.
func settings(url string) *config.AMQP {
	return &config.AMQP{
		URLs:           []string{url},
		Heartbeat:      10 * time.Second,
		ConnectTimeout: 30 * time.Second,
		ConfirmTimeout: 15 * time.Second,
		Buffer:         1000,
		MaxMessageSize: 16 << 20,
	}
}

// start runs a Publisher with the broker that c names until t ends. It has verified the exchanges. It waits for the broker as a
// reload does that finds none, as long as c says: at a start half a second is enough, and for a busy machine it is not.
func start(t testing.TB, c *config.AMQP, exchanges ...string) *Publisher {
	t.Helper()
	p := New(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	p.config = &config.AMQP{}
	change, err := p.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if change.Warning != nil {
		t.Fatal(change.Warning)
	}
	change.Verify(exchanges)
	change.Commit()
	runUntilEnd(t, p)
	for _, name := range exchanges { // what Verify did not hear within its second
		until(t, patience, func() bool {
			verified, err := p.exchanges.ask(name)
			return verified || err != nil
		})
	}
	return p
}

func runUntilEnd(t testing.TB, p *Publisher) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// delivery is a mail to exchange that nobody else holds.
func delivery(exchange, key string) *mail.Delivery {
	id := uuid.New()
	content := memory.NewContent(nil, 64, nil)
	content.Extend(copy(content.Room(), "Subject: test\r\n\r\n"+id.String()+"\r\n"))
	to := address.Address{Local: "to", Domain: "example.com"}
	return &mail.Delivery{
		ID:         id,
		Envelope:   &mail.Envelope{ID: id, Listener: "test", ReceivedAt: time.Now(), ClientIP: netip.MustParseAddr("127.0.0.1"), Size: 54},
		Recipients: []address.Address{to},
		Exchange:   exchange,
		RoutingKey: key,
		Format:     mail.Raw,
		Content:    content,
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAConfirmedDeliveryIsInItsQueueWithItsID(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox := rabbit.Queue(t, broker.URL())
	p := start(t, settings(broker.URL()))
	d := delivery(inbox.Name, "a.key")
	if r := p.Submit(t.Context(), d).Wait(t.Context()); r.Outcome != Confirmed {
		t.Fatalf("outcome %v: %v", r.Outcome, r.Err)
	}
	got := rabbit.Drain(t, inbox, 1, patience)[0]
	if got.MessageId != d.ID.String() || string(got.Body) != string(d.Content.Octets()) || got.RoutingKey != "a.key" || got.DeliveryMode != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestReturnsInParallelReachTheirOwnSender(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox := rabbit.Queue(t, broker.URL())
	p := start(t, settings(broker.URL()))
	var senders sync.WaitGroup
	for i := range 64 {
		senders.Go(func() {
			for range 50 {
				exchange, want := inbox.Name, Confirmed
				if i%2 == 0 {
					exchange, want = "amq.direct", Returned // nothing is bound there
				}
				if r := p.Submit(t.Context(), delivery(exchange, "nobody")).Wait(t.Context()); r.Outcome != want {
					t.Errorf("to %s: %v (%v), want %v", exchange, r.Outcome, r.Err, want)
					return
				}
			}
		})
	}
	senders.Wait()
	rabbit.Drain(t, inbox, 32*50, patience)
}

func TestAMissingExchangeCostsOthersNothingAndIsUsableOnceItExists(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox, late := rabbit.Queue(t, broker.URL()), "late-"+uuid.NewString()
	p := start(t, settings(broker.URL()))
	var senders sync.WaitGroup
	for range 32 {
		senders.Go(func() {
			for range 50 {
				if r := p.Submit(t.Context(), delivery(inbox.Name, "k")).Wait(t.Context()); r.Outcome != Confirmed {
					t.Errorf("beside a missing exchange: %v: %v", r.Outcome, r.Err)
				}
			}
		})
	}
	r := p.Submit(t.Context(), delivery(late, "k")).Wait(t.Context())
	// In doubt is right for the first, whose channel closed under it and whose exchange was then known to be missing.
	if r.Outcome != InDoubt && r.Outcome != Returned {
		t.Errorf("to a missing exchange: %v: %v", r.Outcome, r.Err)
	}
	senders.Wait()
	if r := p.Submit(t.Context(), delivery(late, "k")).Wait(t.Context()); r.Outcome != Returned || !strings.Contains(r.Err.Error(), late) {
		t.Errorf("to an exchange known to be missing: %v: %v", r.Outcome, r.Err)
	}
	if names := p.Status().Exchanges; names[late] == "" {
		t.Errorf("status does not name %s: %v", late, names)
	}
	rabbit.Drain(t, inbox, 32*50, patience)
	declareExchange(t, broker.URL(), late)
	p.exchanges.probeNow()
	until(t, patience, func() bool { return p.exchanges.fault(late) == nil })
	// Nothing is bound to it, so that it returns what it takes: the broker's word, and no longer the quarantine's.
	r = p.Submit(t.Context(), delivery(late, "k")).Wait(t.Context())
	if r.Outcome != Returned || !strings.Contains(r.Err.Error(), "NO_ROUTE") {
		t.Errorf("once the exchange exists: %v: %v", r.Outcome, r.Err)
	}
}

// declareExchange makes an exchange that goes when t ends.
func declareExchange(t *testing.T, url, name string) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare(name, "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ch.ExchangeDelete(name, false, false)
		conn.Close()
	})
}

// until polls a state that nothing announces.
func until(t testing.TB, patience time.Duration, condition func() bool) {
	t.Helper()
	ctx := within(t, patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v", patience)
		}
	}
}

func TestAChangedBrokerIsConnectedBeforeTheOldOneCloses(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox := rabbit.Queue(t, broker.URL())
	p := start(t, settings(broker.URL()))
	var senders sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r := p.Submit(t.Context(), delivery(inbox.Name, "k")).Wait(t.Context()); r.Outcome != Confirmed {
					t.Errorf("during a change: %v: %v", r.Outcome, r.Err)
					return
				}
			}
		})
	}
	for i := range 5 {
		c := settings(broker.URL())
		c.Heartbeat = time.Duration(20+i) * time.Second // another connection
		change, err := p.Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		change.Commit()
	}
	nobody := settings("amqp://guest:secret@127.0.0.1:1/")
	if _, err := p.Prepare(t.Context(), nobody); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a broker that does not answer: %v", err)
	}
	close(stop)
	senders.Wait()
}

func TestATicketGivenUpInTheQueueIsNotPublished(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox := rabbit.Queue(t, broker.URL())
	p := New(slog.New(slog.DiscardHandler))
	change, err := p.Prepare(t.Context(), settings(broker.URL()))
	if err != nil {
		t.Fatal(err)
	}
	change.Commit()
	gone, cancel := context.WithCancel(t.Context())
	ticket := p.Submit(gone, delivery(inbox.Name, "given up"))
	cancel()
	if r := ticket.Wait(gone); r.Outcome != Unavailable {
		t.Errorf("%v: %v", r.Outcome, r.Err)
	}
	kept := p.Submit(t.Context(), delivery(inbox.Name, "kept"))
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	if r := kept.Wait(t.Context()); r.Outcome != Confirmed {
		t.Errorf("%v: %v", r.Outcome, r.Err)
	}
	if got := rabbit.Drain(t, inbox, 1, patience); got[0].RoutingKey != "kept" {
		t.Errorf("got %s", got[0].RoutingKey)
	}
}

func TestPausesBetweenAttemptsGrowAndStayBounded(t *testing.T) {
	for attempt, most := range map[int]time.Duration{1: 400 * time.Millisecond, 3: 1600 * time.Millisecond, 20: 5 * time.Second, 21: 30 * time.Second, 1000: 30 * time.Second} {
		longest := time.Duration(0)
		for range 1000 {
			longest = max(longest, backoff(attempt))
		}
		if longest > most || longest < most/2 {
			t.Errorf("attempt %d: longest of 1000 is %v, want up to %v", attempt, longest, most)
		}
	}
}

func TestWhatAMQPCannotCarryIsRejectedHereAndTheConnectionLives(t *testing.T) {
	broker := rabbit.Shared(t)
	inbox := rabbit.Queue(t, broker.URL())
	p := start(t, settings(broker.URL()))
	for name, d := range map[string]*mail.Delivery{
		"a routing key of 256 octets":   delivery(inbox.Name, strings.Repeat("k", 256)),
		"an exchange of 256 octets":     delivery(strings.Repeat("e", 256), "k"),
		"headers over the frame":        withHeaders(delivery(inbox.Name, "k"), map[string]string{"h": strings.Repeat("v", 128<<10)}),
		"a header's name of 256 octets": withHeaders(delivery(inbox.Name, "k"), map[string]string{strings.Repeat("h", 256): "v"}),
	} {
		if r := p.Submit(t.Context(), d).Wait(t.Context()); r.Outcome != Rejected || r.Err == nil {
			t.Errorf("%s: %v: %v", name, r.Outcome, r.Err)
		}
	}
	before := p.live.current()
	if r := p.Submit(t.Context(), delivery(inbox.Name, strings.Repeat("k", 255))).Wait(t.Context()); r.Outcome != Confirmed || p.live.current() != before {
		t.Errorf("afterwards: %v: %v", r.Outcome, r.Err)
	}
}

func withHeaders(d *mail.Delivery, h map[string]string) *mail.Delivery {
	d.Headers = h
	return d
}

func TestAMessagePublishedTwiceBeforeItsFirstAckIsReturnedTwice(t *testing.T) {
	broker := rabbit.Shared(t)
	proxy, err := faultnet.NewProxy(broker.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	p := start(t, settings("amqp://guest:guest@"+proxy.Addr()+"/"))
	if r := p.Submit(t.Context(), delivery("amq.direct", "nobody")).Wait(t.Context()); r.Outcome != Returned {
		t.Fatalf("%v: %v", r.Outcome, r.Err) // and the channel is open now
	}
	proxy.Freeze() // so that both returns and both acks come at once
	d := delivery("amq.direct", "nobody")
	soon, cancel := context.WithCancel(t.Context())
	defer cancel()
	var late [2]chan Result
	for i := range late {
		late[i] = make(chan Result, 1)
		ticket := p.Submit(t.Context(), d)
		until(t, patience, func() bool { return p.live.window.load().messages == i+1 })
		if i == 1 {
			cancel() // both are written
		}
		go func() {
			if r := ticket.Wait(soon); r.Outcome != InDoubt {
				t.Errorf("unconfirmed, and %v: %v", r.Outcome, r.Err)
			}
			ticket.Late(func(r Result) { late[i] <- r })
		}()
	}
	until(t, patience, func() bool { return p.live.window.load().messages == 0 }) // given up
	proxy.Thaw()
	for i := range late {
		if r := <-late[i]; r.Outcome != Returned {
			t.Errorf("publish %d: %v: %v", i, r.Outcome, r.Err)
		}
	}
}

func TestADeliveryThatWasConfirmedBeforeItsSenderCameToWaitIsConfirmedHoweverLateThatIs(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "x")
	for range 50 {
		timeout := make(confirmTimeout)
		early := p.Submit(timeout, delivery("x", "early"))
		must(t, p, delivery("x", "later"), Confirmed) // behind it on the same channel
		close(timeout)
		if r := early.Wait(timeout); r.Outcome != Confirmed {
			t.Fatalf("%v: %v", r.Outcome, r.Err)
		}
	}
}
