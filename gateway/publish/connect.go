package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"lsmtpd/routes/config"
)

// keepConnected replaces a link that is gone, for ever.
func (p *Publisher) keepConnected(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; {
		p.mu.Lock()
		l, c, due := p.link, p.config, p.retry
		p.mu.Unlock()
		if l != nil {
			attempt = 0
			if !reflect.DeepEqual(l.declared, c.Topology) {
				p.declare(l, c.Topology)
			}
			select {
			case <-l.gone:
				p.lost(l)
			case <-p.changed:
			case <-ctx.Done():
			}
			continue
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-p.changed:
			attempt = 0
			timer.Stop()
			continue
		case <-ctx.Done():
			timer.Stop()
			return
		}
		l, err := p.connect(ctx, c)
		if err != nil {
			attempt++
			p.failed(err, backoff(attempt))
			continue
		}
		p.adopt(l, c)
	}
}

// backoff is exponential with full jitter: from 200 ms to 5 s in about the first minute, to 30 s later.
func backoff(attempt int) time.Duration {
	const first, soon, latest = 200 * time.Millisecond, 5 * time.Second, 30 * time.Second
	ceiling := latest
	if attempt <= 20 {
		ceiling = soon
	}
	ceiling = min(first<<min(attempt, 16), ceiling)
	return time.Duration(rand.Int64N(int64(ceiling)))
}

// connect tries every URL of c once, in turn, and declares the topology on the first that answers.
func (p *Publisher) connect(ctx context.Context, c *config.AMQP) (*link, error) {
	err := errors.New("amqp.urls names no broker")
	for _, url := range c.URLs {
		var l *link
		if l, err = dial(ctx, c, url, p.blocked); err == nil {
			p.declare(l, c.Topology)
			return l, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// declare declares t and logs what the broker refuses of it.
func (p *Publisher) declare(l *link, t config.Topology) {
	l.declared = t
	for _, fault := range declare(l, t) {
		p.log.Warn("topology not as configured", "broker", l.broker, "error", fault)
	}
}

// lost forgets a link that is gone.
func (p *Publisher) lost(l *link) {
	err := l.why()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return
	}
	p.link, p.retry = nil, time.Now()
	p.told = map[string]bool{}
	p.set(err)
	p.log.Warn("broker lost: mail is spooled until it is back", "broker", l.broker, "error", err)
	p.queue.wake()
}

// failed notes an attempt in vain. A state is one line in the log, not one for each attempt; but what waiting does not mend is
// told too, once for each time that the broker is away.
func (p *Publisher) failed(err error, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retry = time.Now().Add(pause)
	p.set(err)
	if fault := lasting(err); fault != "" && !p.told[fault] {
		p.told[fault] = true
		p.log.Error("broker still away: "+fault, "error", err)
		return
	}
	p.log.Debug("broker still away", "error", err, "retry_in_ms", pause.Milliseconds())
}

// lasting is what keeps us from a broker that is there, "" where there seems to be none.
func lasting(err error) string {
	if e, ok := errors.AsType[*awayError](err); ok && e.there {
		return "it " + e.reason
	}
	return ""
}

// adopt makes l the link, unless the configuration it was made from is no longer in force.
func (p *Publisher) adopt(l *link, c *config.AMQP) {
	p.mu.Lock()
	if p.config != c || p.link != nil {
		p.mu.Unlock()
		l.close()
		return
	}
	p.use(l)
	p.mu.Unlock()
}

// use makes l the link to publish on. The caller holds mu.
func (p *Publisher) use(l *link) {
	p.link = l
	p.set(l.refusing())
	select {
	case unseen := <-p.links:
		p.retire(unseen)
	default:
	}
	p.links <- l
	p.log.Info("broker connected", "broker", l.broker)
	p.exchanges.probeNow()
}

// blocked is told when the broker stops or begins again to take mail from l.
func (p *Publisher) blocked(l *link, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return
	}
	p.set(l.refusing())
	if reason != "" {
		p.log.Warn("broker blocked: mail is spooled until it takes mail again", "broker", l.broker, "reason", reason)
		p.queue.wake()
		return
	}
	p.log.Info("broker unblocked", "broker", l.broker)
}

// retire closes l after its last confirm, at the latest after the confirm timeout it was made with.
func (p *Publisher) retire(l *link) {
	p.retiring.Go(func() {
		done := make(chan struct{})
		go func() {
			l.unconfirmed.Wait()
			close(done)
		}()
		timer := time.NewTimer(l.patience)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		case <-l.gone:
		}
		l.close()
	})
}

// Change is a configuration of the broker that is prepared: connected where that was possible.
type Change struct {
	publisher *Publisher
	config    *config.AMQP
	link      *link // nil where the running one stays, or none answered
	keep      bool  // the running link stays
	Warning   error // the broker does not answer, and the mail will be spooled
}

// startPatience is how long the start waits for the broker. It protects no connection, and mail is not to wait for it: whoever
// does not answer so soon is tried on with all of connect_timeout, while mail is taken and spooled.
const startPatience = 500 * time.Millisecond

// Prepare makes ready to publish as c says. Where c leads to the same broker as before, the connection stays; otherwise the
// new one is made first. That it does not answer within c.ConnectTimeout is an error, unless there is no working connection
// now either: then it is the Change's Warning.
func (p *Publisher) Prepare(ctx context.Context, c *config.AMQP) (*Change, error) {
	p.mu.Lock()
	old, working := p.config, p.link != nil
	p.mu.Unlock()
	change := &Change{publisher: p, config: c}
	if old != nil && sameBroker(old, c) {
		change.keep = true
		return change, nil
	}
	patience := c.ConnectTimeout
	if old == nil {
		patience = min(patience, startPatience)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l, err := p.connect(limited, c)
	switch {
	case err == nil:
		change.link = l
	case working:
		return nil, fmt.Errorf("%w (the connection in use stays)", err)
	default:
		change.Warning = err
	}
	return change, nil
}

// Commit puts the change in force.
func (c *Change) Commit() {
	p := c.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c.config
	p.queue.resize(c.config.Buffer)
	switch {
	case c.link != nil:
		p.use(c.link)
	case !c.keep:
		p.retry = time.Now().Add(backoff(1))
		p.told = map[string]bool{lasting(c.Warning): true}
		p.set(c.Warning)
		p.log.Warn("broker away: mail is spooled until it is back", "error", c.Warning)
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Abort undoes Prepare.
func (c *Change) Abort() {
	if c.link != nil {
		c.link.close()
	}
}
