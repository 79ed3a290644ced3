package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	maxOld    = 4                // channels left that a lane keeps to hear their last confirms: closed before, they would end the connection
	renewEach = 30 * time.Second // between two times that a lane asks for another link
)

var errStopping = errors.New("the gateway is stopping")

// lane is one way to the broker: a queue, and one goroutine that publishes what is in it on one channel. It goes on across reloads
// and reconnections; links come and go.
type lane struct {
	*line
	queue  *queue
	window *window

	// owned by run
	on      *link      // the newest; nil before the first
	channel *channel   // nil where it must be opened
	aside   *channel   // for messages that are to be alone; nil where it must be opened
	wary    *channel   // for messages that the broker may close it for; nil where it must be opened
	old     []*channel // worn, or refused
	moves   moves      // from channels that are refused everything for a destination
	renewal time.Time  // when another link may be asked for, at the soonest
	ticket  *Ticket    // taken from the queue and not published yet
}

func newLane(p *Publisher, name string) *lane {
	q := newQueue(1)
	return &lane{line: newLine(p, name), queue: q, window: newWindow(q.wake)}
}

// run publishes until ctx ends. What is queued then is given up.
func (l *lane) run(ctx context.Context) {
	for {
		wait := l.step()
		if wait == nil {
			continue
		}
		if l.on != nil {
			l.on.conn.uncork()
		}
		var closed <-chan *amqp.Error
		if l.channel != nil {
			closed = l.channel.closed
		}
		select {
		case <-wait:
		case <-closed:
			l.closed()
		case to := <-l.links:
			l.change(to)
		case <-ctx.Done():
			l.queue.close()
			for l.ticket != nil || l.take(nil) {
				l.giveUp(Result{Unavailable, errStopping})
			}
			return
		}
	}
}

// take takes the next ticket from the queue, and tells whether there is one.
func (l *lane) take(w *window) bool {
	l.ticket = l.queue.take(w)
	return l.ticket != nil
}

// step does the next thing that needs no waiting. It returns nil, or what to wait for: more to publish, or room in the window.
func (l *lane) step() (wait <-chan struct{}) {
	away := l.refusing()
	w := l.window
	if away != nil {
		w = nil // it is only to be given up
	}
	waits := l.ticket != nil || l.take(w)
	// Only now: a ticket that was queued after another link came into use is not published on the one before.
	if len(l.links) > 0 {
		l.change(<-l.links)
		return nil
	}
	if !waits {
		return l.queue.ready
	}
	t := l.ticket
	if away != nil {
		l.giveUp(Result{Unavailable, away})
		return nil
	}
	if refusal := l.publisher.shut(t); refusal.Err != nil {
		l.giveUp(refusal)
		return nil
	}
	if l.on == nil || l.on.broken() {
		return l.unconnected()
	}
	if err := l.on.fits(t.octets); err != nil {
		l.giveUp(Result{Rejected, err})
		return nil
	}
	if !t.begin() {
		l.giveUp(Result{}) // nobody waits for it
		return nil
	}
	c, err := l.open(t)
	if err != nil {
		l.giveUp(Result{Unavailable, err})
		return nil
	}
	l.publish(c)
	return nil
}

// unconnected has the ticket wait where the lane connects when needed; otherwise it is given up.
func (l *lane) unconnected() (wait <-chan struct{}) {
	if len(l.links) > 0 {
		return nil // it came just now
	}
	if l.lazy() {
		l.want()
		return l.queue.ready
	}
	l.giveUp(Result{Unavailable, errors.New("not connected yet")})
	return nil
}

// open returns the channel to publish t on.
func (l *lane) open(t *Ticket) (c *channel, err error) {
	at := &l.channel
	switch {
	case t.hunt != nil:
		at = &l.aside
	case t.wary:
		at = &l.wary
	}
	if at != &l.channel && *at != nil && (*at).ch.IsClosed() {
		*at = nil
	}
	if *at != nil && l.leaves(*at, destinationOf(t.delivery), time.Now()) {
		l.old, *at = append(l.old, *at), nil
	}
	if *at != nil {
		return *at, nil
	}
	l.on.conn.uncork()
	*at, err = openChannel(l.on)
	return *at, err
}

// leaves tells whether c is left: it is worn, or it is refused everything for d and another is worth a try. With too many that were
// left and wait for confirms the lane stays, and a worn one calls for another link: the broker would keep ever more channels for queues
// that do not confirm.
func (l *lane) leaves(c *channel, d destination, now time.Time) bool {
	switch {
	case c.worn(now):
		if l.room() {
			return true
		}
		if !now.Before(l.renewal) {
			l.renewal = now.Add(renewEach)
			signal(l.on.worn)
		}
	case c.refuses(d) && l.moves.due(d, now) && l.room():
		l.publisher.log.Info("the broker refuses all mail for a destination on this channel: the next one is tried",
			"lane", l.name, "exchange", d.exchange, "routing_key", d.key)
		l.moves.moved(c.refused(), now)
		return true
	}
	return false
}

// room tells whether one more channel may be left. Those that have heard their last confirm end.
func (l *lane) room() bool {
	l.old = slices.DeleteFunc(l.old, func(c *channel) bool {
		done := c.idle()
		if done {
			l.publisher.retiring.Go(func() { c.ch.Close() })
		}
		return done || c.ch.IsClosed()
	})
	return len(l.old) < maxOld
}

// publish hands the ticket to the broker. Where the channel closes first, the ticket stays for the next one.
func (l *lane) publish(c *channel) {
	t := l.ticket
	l.on.conn.cork()
	now := time.Now()
	s := sent{channel: c, at: now, age: c.age(now)}
	s.age.unconfirmed.Add(1)
	c.link.unconfirmed.Add(1)
	var err error
	if s.dc, err = c.publish(t); err == nil {
		l.ticket = nil
		t.free()
		t.sent <- s
		return
	}
	s.dc = nil
	s.settled()
	if err := c.refusal(t); err != nil {
		l.giveUp(Result{Rejected, fmt.Errorf("not an AMQP message: %w", err)})
		return
	}
	<-c.closed // or it is about to be
	switch c {
	case l.channel:
		l.closed()
	case l.aside:
		l.aside = nil
	case l.wary:
		l.wary = nil
	}
	if !errors.Is(err, amqp.ErrClosed) {
		// The socket failed, and some of it may have been written.
		l.giveUp(Result{InDoubt, err})
	}
}

func (l *lane) giveUp(r Result) {
	l.ticket.giveUp(r)
	l.ticket = nil
}

// closed notes that the broker closed the channel, and opens the next one: whoever was in doubt publishes again on that.
func (l *lane) closed() {
	c := l.channel
	l.channel = nil
	if l.on.broken() {
		return
	}
	if who := l.publisher.blame(c); who.blames != anyMail && who.blames != itsMail {
		l.publisher.log.Warn("the broker closed the publish channel: what was unconfirmed is published again",
			"lane", l.name, "error", c.why())
	}
	l.on.conn.uncork()
	l.channel, _ = openChannel(l.on) // its error is met again by the next ticket
}

// change publishes on to from now; nil is none. The old link closes after its last confirm.
func (l *lane) change(to *link) {
	if old := l.on; old != nil {
		old.conn.uncork()
		l.publisher.retire(old)
	}
	l.on, l.channel, l.aside, l.wary, l.old = to, nil, nil, nil, nil
	l.moves, l.renewal = moves{}, time.Time{}
	if to != nil {
		l.channel, _ = openChannel(to) // its error is met again by the next ticket
	}
}
