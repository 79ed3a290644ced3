package gateway

import (
	"errors"

	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/smtp"
)

// policies are what the listener says of mail that the broker did not take.
type policies struct {
	onBrokerFailure string // spool | defer
	onUnroutable    string // spool | defer | reject
}

// decide tells, of the results of one mail's deliveries, what the client is answered if it is to be refused, else (the zero
// Reply) which of the deliveries must be spooled before it is told 250. Once one delivery is confirmed the mail is accepted,
// and whatever did not succeed is spooled, whatever the policies say. A mail is bounced only where each of its deliveries is unroutable.
func decide(p policies, results []publish.Result) (keep []bool, refusal smtp.Reply) {
	keep = make([]bool, len(results))
	confirmed, unroutable := false, true
	for i, r := range results {
		keep[i] = r.Outcome != publish.Confirmed
		confirmed = confirmed || r.Outcome == publish.Confirmed
		unroutable = unroutable && r.Outcome == publish.Returned
	}
	if confirmed {
		return keep, smtp.Reply{}
	}
	for _, r := range results {
		refusal = graver(refusal, p.refuse(r))
	}
	if refusal.Code >= 500 && !unroutable {
		// What may have arrived, or could still be delivered, is not bounced for another's sake.
		refusal = replyTryLater
	}
	return keep, refusal
}

// refuse is the reply that the policies give to a result: zero to spool. For want of memory nothing is spooled: who sends is to
// wait, and the disk is not to fill up beside a broker that takes mail.
func (p policies) refuse(r publish.Result) smtp.Reply {
	switch o := r.Outcome; {
	case errors.Is(r.Err, memory.ErrExhausted):
		return replyNoMemory
	case o == publish.Returned && p.onUnroutable == "reject":
		return replyUnroutable
	case o == publish.Returned && p.onUnroutable == "defer",
		o != publish.Returned && p.onBrokerFailure == "defer":
		return replyTryLater
	}
	return smtp.Reply{}
}

// graver returns the reply that wins for the whole mail: a passing one before a final one, so that nothing is bounced that
// could still be delivered.
func graver(a, b smtp.Reply) smtp.Reply {
	if a.IsZero() || a.Code >= 500 && !b.IsZero() && b.Code < 500 {
		return b
	}
	return a
}
