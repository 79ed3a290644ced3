package gateway

import (
	"context"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"
)

// resend publishes one delivery of s. Where the broker confirms it only after the verdict, its file goes then.
func (g *Gateway) resend(ctx context.Context, s *spool.Spool, d *mail.Delivery) (spool.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, g.running.Load().table.Config.AMQP.ConfirmTimeout)
	defer cancel()
	ticket := g.publisher.Submit(ctx, d)
	r := ticket.Wait(ctx)
	switch r.Outcome {
	case publish.Confirmed:
		return spool.Done, nil
	case publish.Unavailable:
		return spool.Stop, r.Err
	}
	id := d.ID
	ticket.Late(func(r publish.Result) {
		if r.Outcome == publish.Confirmed {
			s.Settle(id, true)
		}
	})
	return spool.Later, r.Err
}
