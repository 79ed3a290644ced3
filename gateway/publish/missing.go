package publish

import (
	"context"
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// missingPatience is how long an operator's question for a destination waits for the broker's answer.
const missingPatience = 5 * time.Second

// Missing returns the broker's word that an exchange is not there, or, for the default exchange, that no queue has the name key. It
// returns nil where they are there, and where the broker says nothing of that: it is away or silent, or refuses for another reason.
func (p *Publisher) Missing(ctx context.Context, exchange, key string) error {
	l := p.live.current()
	if l == nil {
		return nil
	}
	answer := make(chan error, 1)
	go func() {
		s := scratch{link: l}
		defer s.close()
		if exchange == "" {
			answer <- s.queue(key)
			return
		}
		answer <- s.ask(question{exchange: exchange})
	}()
	timer := time.NewTimer(missingPatience)
	defer timer.Stop()
	select {
	case err := <-answer:
		if told, ok := errors.AsType[*amqp.Error](err); ok && told.Server && told.Code == amqp.NotFound {
			return errors.New(told.Reason)
		}
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// Destination is an exchange and a routing key.
type Destination struct{ Exchange, RoutingKey string }

// Fault tells why nothing is published to d, or only a probe now and then: nil where all is.
func (p *Publisher) Fault(d Destination) error {
	if err := p.exchanges.fault(d.Exchange); err != nil {
		return err
	}
	if err := p.refusals.shut(destination{d.Exchange, d.RoutingKey}); err != nil {
		return err
	}
	if p.breakers.shut(destination{d.Exchange, d.RoutingKey}) {
		return errBreaker
	}
	return nil
}

// Reconsider has those of all that nothing is published to tried anew, as an operator may have mended them: the broker is asked for
// the exchanges in quarantine, and those that it calls usable are at once; a destination that it refused is probed by the next
// message; one that did not confirm is published to until it misses once more. It waits for the answers as Missing does.
func (p *Publisher) Reconsider(ctx context.Context, all []Destination) {
	var shut []string
	for _, d := range all {
		if p.exchanges.fault(d.Exchange) != nil {
			shut = append(shut, d.Exchange)
		}
		p.refusals.probeNow(destination{d.Exchange, d.RoutingKey})
		p.breakers.reprieve(destination{d.Exchange, d.RoutingKey})
	}
	slices.Sort(shut)
	shut = slices.Compact(shut)
	l := p.live.current()
	if l == nil || len(shut) == 0 {
		return
	}
	p.exchanges.hurry(shut)
	ctx, cancel := context.WithTimeout(ctx, missingPatience)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.ask(p.exchanges.questions(shut), func(a answer) bool {
			p.exchanges.note(map[string]answer{a.exchange: a})
			return ctx.Err() == nil
		})
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
