package publish

import (
	"errors"
	"fmt"
	"reflect"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// undeclared tells whether t is to be declared on l, and notes that it is.
func (l *link) undeclared(t config.Topology) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.declared != nil && reflect.DeepEqual(*l.declared, t) {
		return false
	}
	l.declared = &t
	return true
}

// declare declares t on l, each item so that a refusal, which closes the channel, is of that one only. It returns every
// refusal: an inequivalent declaration is the operator's to mend, and stops nothing.
func declare(l *link, t config.Topology) []error {
	s := scratch{link: l}
	defer s.close()
	var faults []error
	try := func(what string, f func(ch *amqp.Channel) error) {
		ch, err := s.channel()
		if err == nil {
			err = f(ch)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", what, err))
		}
	}
	for _, e := range t.Exchanges {
		try(fmt.Sprintf("declare exchange %q", e.Name), func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(e.Name, e.Type, e.Durable, e.AutoDelete, e.Internal, false, amqp.Table(e.Arguments))
		})
	}
	for _, q := range t.Queues {
		try(fmt.Sprintf("declare queue %q", q.Name), func(ch *amqp.Channel) error {
			if q.Exclusive {
				return errors.New("an exclusive queue would belong to the gateway's own connection")
			}
			_, err := ch.QueueDeclare(q.Name, q.Durable, q.AutoDelete, false, false, amqp.Table(q.Arguments))
			return err
		})
	}
	for _, b := range t.Bindings {
		try(fmt.Sprintf("bind queue %q to exchange %q", b.Queue, b.Exchange), func(ch *amqp.Channel) error {
			return ch.QueueBind(b.Queue, b.RoutingKey, b.Exchange, false, amqp.Table(b.Arguments))
		})
	}
	return faults
}
