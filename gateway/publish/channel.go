package publish

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/mail"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	wornAfter = 5 * time.Minute  // how old the oldest unconfirmed message of a channel may be
	ageSpan   = 10 * time.Second // messages published so close together have one age
)

// errRefused tells that a message was not written: channel.refusal tells why.
var errRefused = errors.New("not to be published here")

// channel is one AMQP channel in confirm mode. It does nothing but publish: any RPC beside publishes would end the connection.
type channel struct {
	link    *link
	ch      *amqp.Channel
	closing chan *amqp.Error // the broker's reason, once; closed with the channel. Received from by why alone
	closed  chan *amqp.Error // ready when the channel is closed and closing has the reason. For the lane to wait for
	ages    []*age           // owned by the lane that publishes: the oldest first
	nacks   nacks
	blamed  sync.Once // the culprit is

	// guarded by mu
	mu       sync.Mutex
	out      map[*Ticket]int64 // published and not answered, with the octets of the payload
	reason   *amqp.Error       // for which the broker closed the channel
	culprit  culprit           // whom it closed it for; not changed once there is a reason
	hunt     *hunt             // for whose message that was, where the culprit is not known
	returns  chan amqp.Return
	returned map[string]returned // by message-id, until the acks are seen
}

// age counts what was published at about one time and is not confirmed yet.
type age struct {
	begun       time.Time
	unconfirmed atomic.Int64
}

// returned counts the returns of one message-id, because it may be published again before its first ack: a return stands for one
// ack, whichever of them is seen first.
type returned struct {
	times  int
	reason string
}

// openChannel opens a channel on l.
func openChannel(l *link) (*channel, error) {
	ch, err := l.amqp.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("put the channel in confirm mode: %w", err)
	}
	return &channel{
		link:     l,
		ch:       ch,
		closing:  ch.NotifyClose(make(chan *amqp.Error, 1)), // told first
		closed:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		returns:  ch.NotifyReturn(make(chan amqp.Return, 2*windowMessages)),
		out:      map[*Ticket]int64{},
		returned: map[string]returned{},
		nacks:    nacks{row: map[destination]int{}},
	}, nil
}

// refusal tells why t is not published here: nil where it may be. Its header table was measured when it was submitted, but this may
// be another broker than then.
func (c *channel) refusal(t *Ticket) error {
	if t.table > c.link.table {
		if err := t.delivery.CheckWithin(c.link.table); err != nil {
			return err
		}
	}
	return t.headers.Validate()
}

// publish hands t to the broker: persistent, mandatory. The octets of t are free afterwards.
func (c *channel) publish(t *Ticket) (*amqp.DeferredConfirmation, error) {
	d := t.delivery
	if t.table > c.link.table && c.refusal(t) != nil {
		return nil, errRefused
	}
	c.mu.Lock()
	c.out[t] = t.octets
	c.mu.Unlock()
	dc, err := c.ch.PublishWithDeferredConfirm(d.Exchange, d.RoutingKey, true, false, amqp.Publishing{
		Headers:      t.headers,
		ContentType:  d.ContentType(),
		DeliveryMode: amqp.Persistent,
		MessageId:    t.id,
		Timestamp:    d.Envelope.ReceivedAt,
		Type:         mail.Type,
		AppId:        mail.AppID,
		Body:         t.payload,
	})
	if err != nil {
		c.mu.Lock()
		delete(c.out, t)
		c.mu.Unlock()
	}
	return dc, err
}

// age returns the age of what is published now.
func (c *channel) age(now time.Time) *age {
	for len(c.ages) > 1 && c.ages[0].unconfirmed.Load() == 0 {
		c.ages = c.ages[1:]
	}
	last := len(c.ages) - 1
	if last < 0 || now.Sub(c.ages[last].begun) >= ageSpan {
		c.ages, last = append(c.ages, &age{begun: now}), last+1
	}
	return c.ages[last]
}

// worn tells whether a message has waited so long for its confirm that no more is to be published here: the client library keeps a
// record of each later one until then.
func (c *channel) worn(now time.Time) bool {
	return len(c.ages) > 0 && now.Sub(c.ages[0].begun) > wornAfter && c.ages[0].unconfirmed.Load() > 0
}

// idle tells whether every message is confirmed. A channel closes in peace only then.
func (c *channel) idle() bool {
	for _, a := range c.ages {
		if a.unconfirmed.Load() > 0 {
			return false
		}
	}
	return true
}

// why tells for which reason the broker closed the channel: nil where it did not, or where the connection went. It is known before
// the confirmations of the channel are done.
func (c *channel) why() *amqp.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case reason := <-c.closing:
		if reason != nil && !c.link.broken() {
			c.reason = reason
			c.culprit = judge(reason, c.out)
		}
	default:
	}
	return c.reason
}

// outcome tells what became of t's message, whose confirmation dc is done. A return comes before its ack on the wire, and
// the library's reader has put it into returns by then, so the channel is drained here, when the ack is seen.
func (c *channel) outcome(t *Ticket, dc *amqp.DeferredConfirmation) Result {
	acked := dc.Acked()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	back := c.take(t.id)
	inDoubt := !acked && c.ch.IsClosed()
	if !inDoubt {
		delete(c.out, t)
	}
	switch {
	case acked && back != "":
		return Result{Outcome: Returned, Err: errors.New(back)}
	case acked:
		c.nacks.confirmed(destinationOf(t.delivery))
		return Result{Outcome: Confirmed}
	case inDoubt:
		return Result{Outcome: InDoubt, Err: errors.New("the channel closed before the broker confirmed")}
	}
	c.nacks.refused(destinationOf(t.delivery))
	return Result{Outcome: Rejected, Err: errors.New("the broker answered basic.nack")}
}

// take returns the reason of one return of the message id, "" where there is none. The caller holds mu.
func (c *channel) take(id string) (reason string) {
	r, ok := c.returned[id]
	if !ok {
		return ""
	}
	if r.times--; r.times == 0 {
		delete(c.returned, id)
	} else {
		c.returned[id] = r
	}
	return r.reason
}

// drain counts the returns that have come. The caller holds mu.
func (c *channel) drain() {
	for {
		select {
		case r, open := <-c.returns:
			if !open {
				return
			}
			reason := fmt.Sprintf("returned: %d %s", r.ReplyCode, r.ReplyText)
			c.returned[r.MessageId] = returned{c.returned[r.MessageId].times + 1, reason}
		default:
			return
		}
	}
}
