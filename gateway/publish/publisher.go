// Package publish owns the connection to RabbitMQ and the shared publish channel: it takes deliveries from every listener,
// publishes them on one AMQP channel and tells each sender what became of its own. It knows no SMTP and no spool.
package publish

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"lsmtpd/routes/config"
)

// Publisher is the shared publish channel and its connection. Make it with New, give it a broker with Prepare, then Run it.
type Publisher struct {
	log       *slog.Logger
	queue     *queue
	window    *window
	exchanges *exchanges
	links     chan *link    // to the owner: the link to publish on from now
	changed   chan struct{} // holds a token when the configuration was replaced
	retiring  sync.WaitGroup

	// guarded by mu
	mu     sync.Mutex
	config *config.AMQP
	link   *link           // nil while there is none
	away   error           // why no mail is taken; nil where it is
	up     chan struct{}   // closed while mail is taken
	since  time.Time       // of the present state
	retry  time.Time       // when the next attempt to connect is due
	told   map[string]bool // what is in the log of why it is away, see lasting
}

// New returns a Publisher that has no broker yet.
func New(log *slog.Logger) *Publisher {
	return &Publisher{
		log:       log,
		queue:     newQueue(1),
		window:    newWindow(),
		exchanges: newExchanges(log),
		links:     make(chan *link, 1),
		changed:   make(chan struct{}, 1),
		away:      errors.New("not connected yet"),
		up:        make(chan struct{}),
		since:     time.Now(),
	}
}

// Run publishes and keeps the connection until ctx ends. Then it closes it: what is unconfirmed is in doubt.
func (p *Publisher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { (&owner{publisher: p}).run(ctx) })
	running.Go(func() { p.exchanges.run(ctx, p.current) })
	running.Go(func() { p.keepConnected(ctx) })
	running.Wait()
	if l := p.current(); l != nil {
		l.close()
	}
	p.retiring.Wait()
	return nil
}

func (p *Publisher) current() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// refusing tells why no mail is taken now: nil where it is.
func (p *Publisher) refusing() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away
}

// Available tells whether the broker takes mail now.
func (p *Publisher) Available() bool { return p.refusing() == nil }

// AwaitAvailable returns nil when the broker takes mail, or ctx's error.
func (p *Publisher) AwaitAvailable(ctx context.Context) error {
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set changes whether mail is taken: away is nil, or the reason why not. The caller holds mu.
func (p *Publisher) set(away error) {
	switch {
	case away == nil && p.away != nil:
		close(p.up)
		p.since = time.Now()
	case away != nil && p.away == nil:
		p.up = make(chan struct{})
		p.since = time.Now()
	}
	p.away = away
}
