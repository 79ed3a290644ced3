package publish

import (
	"context"
	"errors"
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
