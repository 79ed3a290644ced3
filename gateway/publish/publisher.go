// Package publish owns the connections to RabbitMQ and the shared publish channel: it takes deliveries from every listener,
// publishes them on one AMQP channel and tells each sender what became of its own. It knows no SMTP and no spool.
package publish

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"lsmtpd/gateway/mail"
	"lsmtpd/routes/config"
)

// Publisher is the shared publish channel and its connections. Make it with New, give it a broker with Prepare, then Run it.
type Publisher struct {
	log       *slog.Logger
	live      *lane // of all mail but what follows
	bulk      *lane // of what must not delay others: large bodies, the replay, probes, exchanges not verified yet
	exchanges *exchanges
	breakers  *breakers
	refusals  *refusals
	retiring  sync.WaitGroup
	answered  atomic.Int32 // which of the URLs answered last
	table     atomic.Int64 // octets of a header table, see MaxTable

	// guarded by mu, as the state of the lines
	mu        sync.Mutex
	config    *config.AMQP
	unreached map[int]UnreachedStatus // by their places in config.URLs
}

// New returns a Publisher that has no broker yet.
func New(log *slog.Logger) *Publisher {
	p := &Publisher{
		log: log, exchanges: newExchanges(log), breakers: newBreakers(log), refusals: newRefusals(log),
		unreached: map[int]UnreachedStatus{},
	}
	p.live, p.bulk = newLane(p, "live"), newLane(p, "bulk")
	p.bulk.whenWanted()
	p.table.Store(mail.MaxTable)
	return p
}

// MaxTable returns how many octets of a header table fit in one frame of the broker, as the connections in use negotiated, or those
// that were the last.
func (p *Publisher) MaxTable() int { return int(p.table.Load()) }

func (p *Publisher) lanes() [2]*lane { return [2]*lane{p.live, p.bulk} }

// wake has both lanes look again: whether mail is taken has changed.
func (p *Publisher) wake() {
	for _, l := range p.lanes() {
		l.queue.wake()
	}
}

// Run publishes and keeps the connections until ctx ends. Then it closes them: what is unconfirmed is in doubt.
func (p *Publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, l := range p.lanes() {
		running.Go(func() { l.run(ctx) })
		running.Go(func() { l.keep(ctx) })
	}
	running.Go(func() { p.exchanges.run(ctx, p.live.current) })
	<-ctx.Done()
	p.stop() // whoever waits for a broker that is silent, or does not read, waits for the end of its connection
	running.Wait()
	p.stop() // what came meanwhile
	for _, l := range p.lanes() {
		if l.on != nil {
			p.retiring.Go(l.on.close) // it had not left that yet
		}
	}
	p.retiring.Wait()
	p.refusals.summarise()
	return nil
}

// stop takes no more mail, and closes the links: what ends in doubt from now on is not published again.
func (p *Publisher) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live.set(errStopping)
	for _, l := range p.lanes() {
		if l.link != nil {
			p.retiring.Go(l.link.close)
			l.link = nil
		}
	}
}

// refusing tells why no mail is taken now: nil where it is.
func (p *Publisher) refusing() error { return p.live.refusing() }

// Available tells whether the broker takes mail now.
func (p *Publisher) Available() bool { return p.refusing() == nil }

// AwaitAvailable returns nil when the broker takes mail, that of a replay included, or ctx's error.
func (p *Publisher) AwaitAvailable(ctx context.Context) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		waitFor := p.live.up
		if p.live.away == nil {
			waitFor = p.bulk.up
		}
		both := p.live.away == nil && p.bulk.away == nil
		p.mu.Unlock()
		if both {
			return nil
		}
		select {
		case <-waitFor:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}
