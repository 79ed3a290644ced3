package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/smtp"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// maxShort is the longest exchange or routing key in octets (AMQP 0-9-1 4.2.5.3).
const maxShort = 255

// transaction is one mail: it pins the listener and the table of its MAIL, and uses them whatever is reloaded meanwhile.
type transaction struct {
	gateway  *Gateway
	session  *session
	running  *running
	listener *listener
	client   *smtp.Client
	envelope *mail.Envelope
	taken    []taken
	only     address.Address // the recipient, while there is one
	batches  []routes.Batch
	notify   bool      // notifications were asked for, for a recipient
	complete time.Time // when the final dot was there
	counted  bool      // as accepted
}

// taken is an accepted recipient.
type taken struct {
	batch int // that he is in
	dsn   mail.DSN
}

func (s *session) newTransaction(r *running, l *listener, c *smtp.Client, from address.Address, p smtp.MailParams) *transaction {
	return &transaction{gateway: s.gateway, session: s, running: r, listener: l, client: c, envelope: &mail.Envelope{
		ID:       uuid.New(),
		Listener: l.Name,
		ClientIP: c.Addr.Addr().Unmap(),
		Helo:     c.Helo,
		User:     c.User,
		TLS:      c.TLS,
		Sender:   from,
		Ret:      p.Ret,
		EnvID:    p.EnvID,
	}}
}

// Rcpt takes one recipient, or notes whom the log is to name as refused.
func (t *transaction) Rcpt(_ context.Context, to address.Address, p smtp.RcptParams) smtp.Reply {
	r := t.route(to, mail.DSN{Notify: p.Notify, ORcpt: p.ORcpt})
	if !r.IsZero() {
		t.session.refused = refusedRecipient{t.envelope.Sender, to}
	}
	return r
}

// route adds one recipient to the batch of its destination.
func (t *transaction) route(to address.Address, dsn mail.DSN) smtp.Reply {
	q := routes.Query{Sender: t.envelope.Sender, Recipient: to, Client: t.envelope.ClientIP, User: t.envelope.User}
	route := t.listener.Route(&q)
	if route == nil {
		return replyNoMailbox
	}
	if refusal := route.Refusal; refusal != nil {
		return smtp.Reply{Code: refusal.Code, Enhanced: refusal.Enhanced, Text: refusal.Text}
	}
	d := route.Destination(&q)
	if len(d.RoutingKey) > maxShort || len(d.Exchange) > maxShort {
		return replyLongKey
	}
	batches, at := routes.Group(t.batches, d, to)
	if most := t.listener.MaxDeliveries; most > 0 && len(batches) > len(t.batches) && len(batches) > most {
		return replyManyRoutes
	}
	t.batches, t.only = batches, to
	t.taken = append(t.taken, taken{at, dsn})
	t.notify = t.notify || dsn != mail.DSN{}
	return smtp.Reply{}
}

// Begin gives the Received field.
func (t *transaction) Begin(context.Context) (prefix []byte, r smtp.Reply) {
	t.envelope.ReceivedAt = time.Now()
	if !t.listener.ReceivedHeader {
		return nil, smtp.Reply{}
	}
	return t.received(), smtp.Reply{}
}

// Close has nothing to give back: the session owns the content.
func (t *transaction) Close() {}

// Data publishes the mail to each destination and keeps what the broker did not take. SMTP has one reply for all of it, LMTP
// one for each recipient, by his own delivery.
func (t *transaction) Data(_ context.Context, c *memory.Content) []smtp.Reply {
	t.complete = time.Now()
	t.envelope.Size = int64(len(c.Octets()))
	deliveries, refusal := t.deliveries(c)
	if !refusal.IsZero() {
		return slices.Repeat([]smtp.Reply{refusal}, t.replies())
	}
	ctx, cancel := context.WithTimeout(t.gateway.hurrying, t.running.table.Config.AMQP.ConfirmTimeout)
	defer cancel()
	tickets, results := t.publish(ctx, deliveries)
	if !t.lmtp() {
		return []smtp.Reply{t.conclude(deliveries, tickets, results)}
	}
	replies := make([]smtp.Reply, len(deliveries))
	for i := range deliveries {
		replies[i] = t.conclude(deliveries[i:i+1], tickets[i:i+1], results[i:i+1])
	}
	return t.perRecipient(deliveries, replies)
}

// lmtp tells what the session speaks, whatever the present listener does.
func (t *transaction) lmtp() bool { return t.session.listener.settings.LMTP }

// replies is how many Data returns.
func (t *transaction) replies() int {
	if t.lmtp() {
		return len(t.taken)
	}
	return 1
}

// perRecipient returns the reply of each accepted recipient, in their order, given those of the deliveries.
func (t *transaction) perRecipient(deliveries []*mail.Delivery, replies []smtp.Reply) []smtp.Reply {
	ofBatch := make([][]smtp.Reply, len(t.batches)) // a reply for each of its recipients, in their order
	for b := range t.batches {
		for len(ofBatch[b]) < len(t.batches[b].Recipients) {
			ofBatch[b] = append(ofBatch[b], slices.Repeat(replies[:1], len(deliveries[0].Recipients))...)
			deliveries, replies = deliveries[1:], replies[1:]
		}
	}
	all := make([]smtp.Reply, len(t.taken))
	for i, r := range t.taken {
		all[i], ofBatch[r.batch] = ofBatch[r.batch][0], ofBatch[r.batch][1:]
	}
	return all
}

// conclude spools what the broker did not take of deliveries, whose client gets one reply for all of them.
func (t *transaction) conclude(deliveries []*mail.Delivery, tickets []*publish.Ticket, results []publish.Result) smtp.Reply {
	keep, refusal := decide(policies{t.listener.OnBrokerFailure, t.listener.OnUnroutable}, results)
	var failed error
	if refusal.IsZero() {
		refusal, failed = t.spool(deliveries, tickets, results, keep)
	}
	if !refusal.IsZero() {
		t.refused(deliveries, results, refusal, failed)
		return refusal
	}
	t.accepted(deliveries, results)
	return smtp.Reply{Code: 250, Enhanced: "2.0.0", Text: "Ok: queued as " + t.envelope.ID.String()}
}

// deliveries makes one AMQP message of each batch, more where its recipients do not fit in one header table.
func (t *transaction) deliveries(c *memory.Content) ([]*mail.Delivery, smtp.Reply) {
	most, table := t.running.table.Config.AMQP.MaxMessageSize, t.gateway.publisher.MaxTable()
	deliveries := make([]*mail.Delivery, 0, len(t.batches))
	for i, b := range t.batches {
		dsn := t.asked(i)
		for rest := b.Recipients; len(rest) > 0; {
			d := &mail.Delivery{
				ID:         t.envelope.ID,
				Envelope:   t.envelope,
				Recipients: rest,
				DSN:        dsn,
				Exchange:   b.Exchange,
				RoutingKey: b.RoutingKey,
				Format:     b.Format,
				Headers:    b.Headers,
				Content:    c,
			}
			if len(deliveries) > 0 {
				d.ID = uuid.New()
			}
			n := d.Fit(table)
			if n == 0 {
				t.session.told += t.replies()
				if t.listener.state.refusals.admit(t.gateway.log.With("listener", t.listener.Name)) {
					t.gateway.log.LogAttrs(context.Background(), slog.LevelError,
						"not accepted: the headers that the configuration makes for this mail are too large for AMQP",
						append(t.attrs([]*mail.Delivery{d}), slog.Int("table_octets", table))...)
				}
				return nil, replyTryLater
			}
			d.Recipients, rest = rest[:n], rest[n:]
			if dsn != nil {
				d.DSN, dsn = dsn[:n], dsn[n:]
			}
			if most > 0 && d.Size() > most {
				return nil, replyTooLarge
			}
			deliveries = append(deliveries, d)
		}
	}
	return deliveries, smtp.Reply{}
}

// asked returns what was asked of notifications for each recipient of a batch; nil where nothing was.
func (t *transaction) asked(batch int) []mail.DSN {
	if !t.notify {
		return nil
	}
	var all []mail.DSN
	for _, r := range t.taken {
		if r.batch == batch {
			all = append(all, r.dsn)
		}
	}
	return all
}

// encodedAhead is how many octets of one mail's deliveries may be encoded and not written to the broker yet.
const encodedAhead = 4 << 20

// publish submits the deliveries in order, and waits for all of them: none waits for another's confirm.
func (t *transaction) publish(ctx context.Context, deliveries []*mail.Delivery) ([]*publish.Ticket, []publish.Result) {
	tickets := make([]*publish.Ticket, len(deliveries))
	results := make([]publish.Result, len(deliveries))
	if len(deliveries) == 1 {
		tickets[0] = t.gateway.publisher.Submit(ctx, deliveries[0])
		results[0] = tickets[0].Wait(ctx)
		return tickets, results
	}
	ahead, written := int64(0), make(chan int64, len(deliveries))
	var waiting sync.WaitGroup
	for i, d := range deliveries {
		size := d.Size()
		for ahead > 0 && ahead+size > encodedAhead {
			ahead -= <-written
		}
		ahead += size
		ticket := t.gateway.publisher.Submit(ctx, d)
		ticket.WhenWritten(func() { written <- size })
		waiting.Go(func() { results[i] = ticket.Wait(ctx) })
		tickets[i] = ticket
	}
	waiting.Wait()
	return tickets, results
}

// spool writes what must be kept. If one cannot be written, the client is refused, and what was written for this mail is
// taken back, unless some of the mail is confirmed: then it stays, because a duplicate is better than a loss.
func (t *transaction) spool(deliveries []*mail.Delivery, tickets []*publish.Ticket, results []publish.Result, keep []bool) (smtp.Reply, error) {
	var failed error
	settle := make([]func(uuid.UUID, bool), len(deliveries)) // of those that were written
	for i, d := range deliveries {
		if !keep[i] {
			continue
		}
		settled, err := t.gateway.store.put(d)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		settle[i] = settled
	}
	partly := len(confirmedIDs(deliveries, results)) > 0
	for i, settle := range settle {
		id := deliveries[i].ID
		switch {
		case settle == nil:
		case failed == nil:
			tell := t.gateway.watchers.later(deliveries[i])
			tickets[i].Late(func(r publish.Result) {
				settle(id, r.Outcome == publish.Confirmed)
				tell(r.Outcome == publish.Confirmed)
			})
		default:
			settle(id, !partly)
		}
	}
	switch {
	case failed == nil:
		return smtp.Reply{}, nil
	case partly:
		t.listener.state.partly.Add(1)
	case errors.Is(failed, spool.ErrFull):
		return replyFull, failed
	}
	return replyTryLater, failed
}

func confirmedIDs(deliveries []*mail.Delivery, results []publish.Result) []string {
	var ids []string
	for i, r := range results {
		if r.Outcome == publish.Confirmed {
			ids = append(ids, deliveries[i].ID.String())
		}
	}
	return ids
}

// accepted counts the mail and writes its one line.
func (t *transaction) accepted(deliveries []*mail.Delivery, results []publish.Result) {
	spooled := 0
	var why error
	for i, r := range results {
		if r.Outcome != publish.Confirmed {
			spooled, why = spooled+1, r.Err
			continue
		}
		t.gateway.watchers.tell(deliveries[i])
	}
	state := t.listener.state
	if !t.counted {
		t.counted = true
		state.accepted.Add(1)
	}
	state.confirmed.Add(uint64(len(results) - spooled))
	state.spooled.Add(uint64(spooled))
	attrs := t.attrs(deliveries)
	if spooled > 0 {
		attrs = append(attrs, slog.Int("spooled", spooled), slog.Any("error", why))
	}
	t.gateway.log.LogAttrs(context.Background(), slog.LevelInfo, "accepted", attrs...)
}

// refused writes the mail's one line; the session's Refused is not to write another. failed is why nothing was spooled, if
// that is why. A mail of which a part is confirmed is always told of: who sends it again makes a duplicate of that part.
func (t *transaction) refused(deliveries []*mail.Delivery, results []publish.Result, reply smtp.Reply, failed error) {
	t.session.told++
	if t.lmtp() {
		t.session.told += recipients(deliveries) - 1
	}
	confirmed := confirmedIDs(deliveries, results)
	if !t.listener.state.refusals.admit(t.gateway.log.With("listener", t.listener.Name)) && len(confirmed) == 0 {
		return
	}
	attrs := append(t.attrs(deliveries), slog.Int("code", reply.Code), slog.String("enhanced", reply.Enhanced))
	for _, r := range results {
		if r.Outcome != publish.Confirmed {
			attrs = append(attrs, slog.String("outcome", r.Outcome.String()), slog.Any("error", r.Err))
			break
		}
	}
	level := slog.LevelWarn
	if failed != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.Any("spool_error", failed))
	}
	if len(confirmed) > 0 {
		attrs = append(attrs, slog.Any("confirmed", confirmed))
	}
	t.gateway.log.LogAttrs(context.Background(), level, "not accepted", attrs...)
}

func (t *transaction) attrs(deliveries []*mail.Delivery) []slog.Attr {
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("listener", t.listener.Name),
		slog.String("client", clientText(t.client)),
		slog.String("id", t.envelope.ID.String()),
		slog.String("sender", t.envelope.Sender.String()),
		slog.Int("recipients", recipients(deliveries)),
		slog.Int64("size", t.envelope.Size),
		slog.String("exchange", deliveries[0].Exchange),
		slog.String("routing_key", deliveries[0].RoutingKey))
	if len(deliveries) > 1 {
		attrs = append(attrs, slog.Int("deliveries", len(deliveries)))
	}
	return append(attrs, slog.Float64("took_ms", milliseconds(t.complete)))
}

func recipients(deliveries []*mail.Delivery) (n int) {
	for _, d := range deliveries {
		n += len(d.Recipients)
	}
	return n
}

// milliseconds since begun, as every log line has them.
func milliseconds(begun time.Time) float64 { return float64(time.Since(begun).Microseconds()) / 1000 }
