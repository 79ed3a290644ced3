package publish

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// huntPatience is how long each message of a hunt may take to be confirmed.
const huntPatience = 2 * time.Second

// hunt looks for the message for which the broker closed a channel without naming it: those in doubt are published again one at a
// time, each alone on its channel, until the culprit shows. Then the rest goes its usual way.
type hunt struct {
	turn  chan struct{} // held by whose message is out
	found bool          // guarded by turn
}

// begin waits for the turn. It tells whether the hunt is still on: then end must be called.
func (h *hunt) begin(ctx context.Context) bool {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if h.found {
		<-h.turn
		return false
	}
	return true
}

// end gives the turn to the next one.
func (h *hunt) end(found bool) {
	h.found = found
	<-h.turn
}

// suspects returns the hunt that the end of c calls for, the same for everybody who was in doubt: nil where it is known what mail the
// broker does not take, or no message is to blame.
func (c *channel) suspects() *hunt {
	reason := c.why()
	if reason == nil || !personal(reason) || c.culprit.blames != nobody && c.culprit.blames != oneMail {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hunt == nil {
		c.hunt = &hunt{turn: make(chan struct{}, 1)}
	}
	return c.hunt
}

// personal tells whether one message is the reason.
func personal(reason *amqp.Error) bool {
	switch reason.Code {
	case amqp.NotFound, amqp.AccessRefused, amqp.PreconditionFailed:
		return true
	}
	return false
}
