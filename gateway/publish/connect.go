package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

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

// pause is how long to wait after an attempt that err ended. Who is refused for his password comes back slowly: some brokers
// lock him out, and only a person can mend it.
func pause(attempt int, err error) time.Duration {
	const slowly = 5 * time.Second
	if refused(err) {
		return slowly + backoff(attempt)
	}
	return backoff(attempt)
}

// connect tries every URL of c once, in turn; the second connection tries first the one that answered last.
func (p *Publisher) connect(ctx context.Context, c *config.AMQP, n *line) (*link, error) {
	t := to{name: "lsmtpd " + n.name, notify: n.blocked}
	if n.lazy() {
		t.first = int(p.answered.Load())
	}
	l, err := dialAny(ctx, c, t)
	if err != nil {
		return nil, err
	}
	p.answered.Store(int32(l.url))
	return l, nil
}

// Change is a configuration of the broker that is prepared: connected where that was possible.
type Change struct {
	publisher *Publisher
	config    *config.AMQP
	link      *link // nil where the running one stays, or none answered
	keep      bool  // the running link stays
	declared  bool  // the topology is, or is being
	verified  bool  // exchanges and answers are to be put in force
	exchanges []string
	answers   map[string]answer
	Warning   error // the broker does not answer, and the mail will be spooled
}

// startPatience is how long the start waits for the broker. It protects no connection, and mail is not to wait for it: whoever
// does not answer so soon is tried on with all of connect_timeout, while mail is taken and spooled.
const startPatience = 500 * time.Millisecond

// Prepare makes ready to publish as c says. Where c leads to the same broker as before, the connection stays; otherwise the
// new one is made first. That it does not answer within c.ConnectTimeout is an error, unless there is no working connection
// now either: then it is the Change's Warning. Several URLs share that time.
func (p *Publisher) Prepare(ctx context.Context, c *config.AMQP) (*Change, error) {
	p.mu.Lock()
	old, working := p.config, p.live.link != nil
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
	l, err := p.connect(limited, c, p.live.line)
	switch {
	case err == nil:
		change.link = l
	case working || p.live.current() != nil: // it may have come back meanwhile
		return nil, fmt.Errorf("%w (the connection in use stays)", err)
	default:
		change.Warning = err
	}
	return change, nil
}

// Verify declares the topology and asks the broker for the exchanges that mail will go to. It comes right before Commit, when nothing
// can fail any more: until then nothing at the broker has changed. It waits a second at most. It returns what the operator should know:
// which URLs were passed over, what was refused, and which exchanges are not verified yet; their mail goes by the second connection until
// they are. Without it each exchange is verified when its first mail comes.
func (c *Change) Verify(exchanges []string) (problems []error) {
	p := c.publisher
	c.verified, c.exchanges = true, exchanges
	l := c.link
	if c.keep {
		l = p.live.current()
	}
	if c.link != nil {
		for _, u := range c.link.passed {
			problems = append(problems, fmt.Errorf("%w (another one of amqp.urls answers)", u.Err))
		}
	}
	if l == nil || l.broken() || l.refusing() != nil {
		if why := p.refusing(); c.Warning == nil && why != nil && len(exchanges) > 0 {
			problems = append(problems, fmt.Errorf("%s not verified yet: %w", areNamed(exchanges), why))
		}
		return problems
	}
	c.declared = true
	c.answers = p.survey(l, c.config.Topology, p.exchanges.questions(append([]string{}, exchanges...)))
	problems = append(problems, l.topologyFaults()...)
	for _, name := range exchanges {
		a, answered := c.answers[name]
		refusal, refused := errors.AsType[*amqp.Error](a.err)
		switch {
		case !answered && name == "": // always there
		case !answered:
			problems = append(problems, fmt.Errorf("exchange %q is not verified yet", name))
		case refused:
			problems = append(problems, fmt.Errorf("exchange %q is unusable: %s", name, refusal.Reason))
		}
	}
	return problems
}

// areNamed names the first of some exchanges.
func areNamed(exchanges []string) string {
	const most = 10
	if len(exchanges) == 1 {
		return fmt.Sprintf("exchange %q is", exchanges[0])
	}
	quoted := make([]string, min(most, len(exchanges)))
	for i := range quoted {
		quoted[i] = strconv.Quote(exchanges[i])
	}
	text := "exchanges " + strings.Join(quoted, ", ")
	if more := len(exchanges) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + " are"
}

// Commit puts the change in force.
func (c *Change) Commit() {
	p := c.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c.config
	if !c.keep {
		clear(p.unreached) // they were other URLs
	}
	p.live.owed = !c.declared
	for _, l := range p.lanes() {
		l.queue.resize(c.config.Buffer)
		if c.keep && l.link == nil {
			l.retry = time.Time{} // a reload tries at once
		}
	}
	if c.link != nil {
		p.live.use(c.link)
	}
	if !c.keep {
		p.bulk.drop()
	}
	if !c.keep && c.link == nil {
		p.live.drop() // it may have come back since
		p.live.retry = time.Now().Add(pause(1, c.Warning))
		p.live.told = map[string]bool{lasting(c.Warning): true}
		p.live.set(c.Warning)
		p.log.Warn("broker away: mail is spooled until it is back", "error", c.Warning)
	}
	if c.verified {
		p.exchanges.configure(c.exchanges, c.answers)
	}
	for _, l := range p.lanes() {
		signal(l.changed)
	}
}

// Abort undoes Prepare.
func (c *Change) Abort() {
	if c.link != nil {
		c.link.close()
	}
}
