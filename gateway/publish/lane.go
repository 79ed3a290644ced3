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
	returned map[string]returned // by message-id, until the acks are seen
}

// returned counts the returns of one message-id, because it may be published again before its first ack: a return stands for one
// ack, whichever of them is seen first.
type returned struct {
	times  int
	reason string
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
		returned: map[string]returned{},
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
	back := l.take(id)
	l.mu.Unlock()
	switch {
	case acked && back != "":
		return Result{Outcome: Returned, Err: errors.New(back)}
	case acked:
		return Result{Outcome: Confirmed}
	case l.ch.IsClosed():
		return Result{Outcome: InDoubt, Err: errors.New("the channel closed before the broker confirmed")}
	}
	return Result{Outcome: Rejected, Err: errors.New("the broker answered basic.nack")}
}

// take returns the reason of one return of the message id, "" where there is none. The caller holds mu.
func (l *lane) take(id string) (reason string) {
	r, ok := l.returned[id]
	if !ok {
		return ""
	}
	if r.times--; r.times == 0 {
		delete(l.returned, id)
	} else {
		l.returned[id] = r
	}
	return r.reason
}

// drain counts the returns that have come. The caller holds mu.
func (l *lane) drain() {
	for {
		select {
		case r, open := <-l.returns:
			if !open {
				return
			}
			reason := fmt.Sprintf("returned: %d %s", r.ReplyCode, r.ReplyText)
			l.returned[r.MessageId] = returned{l.returned[r.MessageId].times + 1, reason}
		default:
			return
		}
	}
}
