package gateway

import (
	"context"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"
)

// broker is what the spools ask about the broker.
type broker struct{ *publish.Publisher }

// Live tells whether live mail is under way.
func (b *broker) Live() bool {
	queued, unconfirmed := b.Load()
	return queued+unconfirmed > 0
}

// Busy tells whether live mail waits for its turn.
func (b *broker) Busy() bool {
	queued, _ := b.Load()
	return queued > 0
}

// stopPatience is how long a stop waits for the broker's word on what a replay has published: a start would publish it again.
const stopPatience = 2 * time.Second

// resend publishes one delivery of s. What the broker says of it only after the confirm timeout settles its file then. When ctx ends
// it is waited for a little longer, unless the gateway is cut.
func (g *Gateway) resend(ctx context.Context, s *spool.Spool, d *mail.Delivery) (spool.Verdict, error) {
	ending := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.running.Load().table.Config.AMQP.ConfirmTimeout)
	defer cancel()
	defer context.AfterFunc(ending, func() {
		select {
		case <-time.After(stopPatience):
		case <-g.hurrying.Done():
		case <-ctx.Done():
		}
		cancel()
	})()
	ticket := g.publisher.Submit(ctx, d)
	r := ticket.Wait(ctx)
	switch r.Outcome {
	case publish.Confirmed:
		g.watchers.tell(d)
		return spool.Done, nil
	case publish.Unavailable:
		return spool.Stop, r.Err
	case publish.Returned, publish.Rejected:
		return spool.Returned, r.Err
	}
	// While the first publish may still be confirmed or returned, a second one would make the two answers one another's.
	id := d.ID
	tell := g.watchers.later(d)
	ticket.Late(func(r publish.Result) {
		s.Settle(id, r.Outcome == publish.Confirmed)
		tell(r.Outcome == publish.Confirmed)
	})
	return spool.Undecided, r.Err
}
