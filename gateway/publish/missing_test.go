package publish

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestOnlyTheBrokersOwnWordMakesADestinationMissing(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()))
	b.Exchange("gone", amqptest.Missing)
	b.Exchange("locked", amqptest.Forbidden)
	b.Queue("gone", amqptest.Missing)
	b.Queue("locked", amqptest.Forbidden)
	for _, c := range []struct{ exchange, key, want string }{
		{"there", "k", ""},
		{"there", "gone", ""}, // a key, and no queue's name
		{"gone", "k", "NOT_FOUND - no exchange 'gone'"},
		{"locked", "k", ""},
		{"", "there", ""},
		{"", "gone", "NOT_FOUND - no queue 'gone'"},
		{"", "locked", ""},
	} {
		err := p.Missing(t.Context(), c.exchange, c.key)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("exchange %q, key %q: %v, want %q", c.exchange, c.key, err, c.want)
		}
	}
	must(t, p, delivery("there", "k"), Confirmed)

	b.Freeze()
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Missing(impatient, "gone", "k"); err != nil {
		t.Errorf("a silent broker says %v", err)
	}
	b.Thaw()
	b.Refuse(true)
	b.Reset()
	until(t, faultPatience, func() bool { return p.live.current() == nil })
	if err := p.Missing(t.Context(), "gone", "k"); err != nil {
		t.Errorf("no broker says %v", err)
	}
}

func TestAQuarantineEndsWhenAnOperatorAsksAndTheBrokerSaysYes(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	b.Exchange("gone", amqptest.Missing)
	b.Exchange("closed", amqptest.Forbidden)
	p := start(t, settings(b.URL()), "x")
	for _, exchange := range []string{"gone", "closed"} {
		submit(t.Context(), p, delivery(exchange, "k")).want(t, Returned, InDoubt)
	}
	all := []Destination{{"gone", "k"}, {"closed", "k"}, {"x", "k"}, {"never heard of", "k"}}
	for _, d := range all[:2] {
		b.Await("a quarantine of "+d.Exchange, func() bool { return p.Fault(d) != nil })
	}
	p.Reconsider(t.Context(), all)
	for i, d := range all {
		if shut := p.Fault(d) != nil; shut != (i < 2) {
			t.Errorf("%v while the broker says no: %v", d, p.Fault(d))
		}
	}
	b.Exchange("gone", amqptest.Usable)
	b.Exchange("closed", amqptest.Usable)
	p.Reconsider(t.Context(), all)
	for _, d := range all {
		if err := p.Fault(d); err != nil {
			t.Errorf("%v when the broker says yes: %v", d, err)
		}
	}
}

func TestADestinationThatIsReconsideredIsPublishedToUntilItFailsAgain(t *testing.T) {
	log, d := slog.New(slog.DiscardHandler), destination{"x", "k"}
	b := newBreakers(log)
	for range missesToOpen {
		b.missed(d)
	}
	if _, err := b.fault(d); err == nil {
		t.Fatal("the breaker is not open")
	}
	b.reprieve(d)
	if _, err := b.fault(d); err != nil {
		t.Errorf("reconsidered: %v", err)
	}
	b.missed(d)
	if _, err := b.fault(d); err == nil {
		t.Error("it missed again, and is published to")
	}
	r := newRefusals(log)
	r.refused(d, &amqp.Error{Code: amqp.AccessRefused, Reason: "ACCESS_REFUSED"})
	if probe, err := r.fault(d); probe || err == nil {
		t.Fatal("it is not refused")
	}
	r.probeNow(d)
	if probe, err := r.fault(d); !probe || err != nil {
		t.Errorf("reconsidered: %v, %v", probe, err)
	}
}
