package publish

import (
	"errors"
	"fmt"
	"sync"

	"lsmtpd/gateway/mail"

	amqp "github.com/rabbitmq/amqp091-go"
)

// lane is one AMQP channel in confirm mode. It does nothing but publish: any RPC beside publishes would end the connection.
type lane struct {
	link   *link
	ch     *amqp.Channel
	closed chan *amqp.Error // the broker's reason, once; closed with the channel

	// guarded by mu
	mu       sync.Mutex
	returns  chan amqp.Return
	returned map[string]string // message-id → reason, until the message's ack is seen
}

// openLane opens a channel on l.
func openLane(l *link) (*lane, error) {
	ch, err := l.amqp.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("put the channel in confirm mode: %w", err)
	}
	return &lane{
		link:     l,
		ch:       ch,
		closed:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		returns:  ch.NotifyReturn(make(chan amqp.Return, 2*windowMessages)),
		returned: map[string]string{},
	}, nil
}

// publish hands t to the broker: persistent, mandatory. The octets of t are free afterwards.
func (l *lane) publish(t *Ticket) (*amqp.DeferredConfirmation, error) {
	d := t.delivery
	return l.ch.PublishWithDeferredConfirm(d.Exchange, d.RoutingKey, true, false, amqp.Publishing{
		Headers:      t.headers,
		ContentType:  d.ContentType(),
		DeliveryMode: amqp.Persistent,
		MessageId:    t.id,
		Timestamp:    d.Envelope.ReceivedAt,
		Type:         mail.Type,
		AppId:        mail.AppID,
		Body:         t.payload,
	})
}

// outcome tells what became of the message id, whose confirmation dc is done. A return comes before its ack on the wire, and
// the library's reader has put it into returns by then, so the channel is drained here, when the ack is seen.
func (l *lane) outcome(id string, dc *amqp.DeferredConfirmation) Result {
	acked := dc.Acked()
	l.mu.Lock()
	l.drain()
	reason, returned := l.returned[id]
	delete(l.returned, id)
	l.mu.Unlock()
	switch {
	case acked && returned:
		return Result{Outcome: Returned, Err: errors.New(reason)}
	case acked:
		return Result{Outcome: Confirmed}
	case l.ch.IsClosed():
		return Result{Outcome: InDoubt, Err: errors.New("the channel closed before the broker confirmed")}
	}
	return Result{Outcome: Rejected, Err: errors.New("the broker answered basic.nack")}
}

func (l *lane) drain() {
	for {
		select {
		case r, open := <-l.returns:
			if !open {
				return
			}
			l.returned[r.MessageId] = fmt.Sprintf("returned: %d %s", r.ReplyCode, r.ReplyText)
		default:
			return
		}
	}
}
