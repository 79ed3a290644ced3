package publish

import (
	"log/slog"
	"testing"

	"lsmtpd/gateway/internal/amqptest"

	amqp "github.com/rabbitmq/amqp091-go"
)

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
