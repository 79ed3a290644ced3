package publish

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// owner is the one goroutine that publishes. It goes on across reloads and reconnections; links come and go.
type owner struct {
	publisher *Publisher
	link      *link   // the newest; nil before the first
	lane      *lane   // nil where it must be opened
	ticket    *Ticket // taken from the queue, not published yet
}

// run publishes until ctx ends. What is queued then is given up.
func (o *owner) run(ctx context.Context) {
	for {
		wait := o.step()
		if wait == nil {
			continue
		}
		if o.link != nil {
			o.link.conn.uncork()
		}
		var closed <-chan *amqp.Error
		if o.lane != nil {
			closed = o.lane.closed
		}
		select {
		case <-wait:
		case reason := <-closed:
			o.closed(reason)
		case l := <-o.publisher.links:
			o.change(l)
		case <-ctx.Done():
			for ; o.ticket != nil; o.ticket = o.publisher.queue.take() {
				o.ticket.giveUp(Result{Unavailable, errors.New("the gateway is stopping")})
			}
			return
		}
	}
}

// step does the next thing that needs no waiting. It returns nil, or what to wait for: more to publish, or room in the window.
func (o *owner) step() (wait <-chan struct{}) {
	p := o.publisher
	if o.ticket == nil {
		if o.ticket = p.queue.take(); o.ticket == nil {
			return p.queue.ready
		}
	}
	if err := p.refusing(); err != nil {
		o.giveUp(Result{Unavailable, err})
		return nil
	}
	if err := p.exchanges.fault(o.ticket.delivery.Exchange); err != nil {
		o.giveUp(Result{Returned, err})
		return nil
	}
	if o.lane == nil {
		select {
		case l := <-p.links: // whoever sees the broker back may be here before its link is
			o.change(l)
			return nil
		default:
		}
		if err := o.open(); err != nil {
			o.giveUp(Result{Unavailable, err})
			return nil
		}
	}
	if !p.window.take(o.ticket.octets) {
		return p.window.room
	}
	o.publish()
	return nil
}

// publish hands the ticket to the broker. Where the channel closes first, the ticket stays for the next one.
func (o *owner) publish() {
	t := o.ticket
	o.link.conn.cork()
	t.windowed.Store(true)
	o.link.unconfirmed.Add(1)
	dc, err := o.lane.publish(t)
	if err == nil {
		o.ticket = nil
		t.free()
		t.sent <- sent{lane: o.lane, dc: dc}
		return
	}
	t.leaveWindow()
	o.link.unconfirmed.Done()
	if !o.lane.ch.IsClosed() {
		o.giveUp(Result{Rejected, fmt.Errorf("not an AMQP message: %w", err)})
		return
	}
	o.closed(<-o.lane.closed)
	if !errors.Is(err, amqp.ErrClosed) {
		// The socket failed, and some of it may have been written.
		o.giveUp(Result{InDoubt, err})
	}
}

func (o *owner) giveUp(r Result) {
	o.ticket.giveUp(r)
	o.ticket = nil
}

// open opens a lane on the newest link.
func (o *owner) open() error {
	if o.link == nil {
		return errors.New("not connected yet")
	}
	o.link.conn.uncork()
	var err error
	o.lane, err = openLane(o.link)
	return err
}

// closed notes that the broker closed the lane, and opens the next one: whoever was in doubt publishes again on that.
func (o *owner) closed(reason *amqp.Error) {
	o.lane = nil
	if o.link.broken() {
		return
	}
	if !o.publisher.exchanges.blame(reason) {
		o.publisher.log.Warn("the broker closed the publish channel: what was unconfirmed is published again", "error", reason)
	}
	o.open() // its error is met again by the next ticket
}

// change publishes on l from now. The old link closes after its last confirm.
func (o *owner) change(l *link) {
	if old := o.link; old != nil {
		old.conn.uncork()
		o.publisher.retire(old)
	}
	o.link, o.lane = l, nil
	o.open()
}
