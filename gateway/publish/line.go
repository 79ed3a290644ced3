package publish

import (
	"context"
	"errors"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/routes/config"
)

// line is a connection to the broker that is kept: a link that is gone is replaced, for ever.
type line struct {
	publisher *Publisher
	name      string
	links     chan *link    // to the lane: the link to publish on from now; nil is none
	changed   chan struct{} // holds a token when the configuration was replaced
	wanted    chan struct{} // holds a token when mail waits for the connection; nil where it is always wanted

	// guarded by the publisher's mu
	link  *link           // nil while there is none
	away  error           // why no mail is taken; nil where it is
	up    chan struct{}   // closed while mail is taken
	down  chan struct{}   // closed while none is
	since time.Time       // of the present state
	retry time.Time       // when the next attempt to connect is due
	told  map[string]bool // what is in the log of why it is away, see lasting
	owed  bool            // the topology in force is still to be declared
}

func newLine(p *Publisher, name string) *line {
	down := make(chan struct{})
	close(down)
	return &line{
		publisher: p,
		name:      name,
		links:     make(chan *link, 1),
		changed:   make(chan struct{}, 1),
		away:      errors.New("not connected yet"),
		up:        make(chan struct{}),
		down:      down,
		since:     time.Now(),
	}
}

// whenWanted makes n connect only when mail waits for it. Until then it takes mail.
func (n *line) whenWanted() {
	n.wanted = make(chan struct{}, 1)
	n.set(nil)
}

func (n *line) lazy() bool { return n.wanted != nil }

// want asks for the connection.
func (n *line) want() {
	if n.lazy() {
		signal(n.wanted)
	}
}

// signal leaves a token in c, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (n *line) current() *link {
	n.publisher.mu.Lock()
	defer n.publisher.mu.Unlock()
	return n.link
}

// stopped is closed while no mail is taken.
func (n *line) stopped() <-chan struct{} {
	n.publisher.mu.Lock()
	defer n.publisher.mu.Unlock()
	return n.down
}

// refusing tells why no mail is taken now: nil where it is. Nothing is taken while the live line is away.
func (n *line) refusing() error {
	p := n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live.away != nil {
		return p.live.away
	}
	return n.away
}

// set changes whether mail is taken: away is nil, or the reason why not. The caller holds mu.
func (n *line) set(away error) {
	switch {
	case away == nil && n.away != nil:
		close(n.up)
		n.down = make(chan struct{})
		n.since = time.Now()
	case away != nil && n.away == nil:
		n.up = make(chan struct{})
		close(n.down)
		n.since = time.Now()
	}
	n.away = away
}

// keep replaces a link that is gone until ctx ends.
func (n *line) keep(ctx context.Context) {
	p := n.publisher
	for attempt := 0; ctx.Err() == nil; {
		p.mu.Lock()
		l, c, due, owed := n.link, p.config, n.retry, n.owed
		n.owed = owed && l == nil
		idle := n.lazy() && n.away == nil
		p.mu.Unlock()
		if l != nil {
			attempt = 0
			if owed {
				p.declare(l, c.Topology)
			}
			n.hold(ctx, l, c)
			continue
		}
		if idle {
			select {
			case <-n.wanted:
			case <-n.changed:
				continue
			case <-ctx.Done():
				return
			}
			if p.live.refusing() != nil {
				continue // the lane gives up what wanted it
			}
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-n.changed:
			attempt = 0
			timer.Stop()
			n.want() // it was, and is
			continue
		case <-ctx.Done():
			timer.Stop()
			return
		}
		l, err := n.connect(ctx, c)
		if err != nil {
			attempt++
			n.failed(c, err, pause(attempt, err))
			continue
		}
		n.adopt(l, c, nil)
	}
}

// connect makes a link as c says, which has told of the exchanges where the line has to know.
func (n *line) connect(ctx context.Context, c *config.AMQP) (*link, error) {
	p := n.publisher
	l, err := p.connect(ctx, c, n)
	if err == nil && !n.lazy() {
		l.answers = p.survey(l, c.Topology, p.exchanges.questions(nil))
	}
	return l, err
}

// hold waits until l is gone or worn, or the configuration c replaced.
func (n *line) hold(ctx context.Context, l *link, c *config.AMQP) {
	select {
	case <-l.gone:
		n.lost(l)
	case <-l.worn:
		n.renew(ctx, l, c)
	case <-n.changed:
	case <-ctx.Done():
	}
}

// renew puts another link in the place of l, which stays where none is to be had: the lane asks again.
func (n *line) renew(ctx context.Context, l *link, c *config.AMQP) {
	next, err := n.connect(ctx, c)
	if err != nil {
		n.publisher.log.Debug(n.what()+" not renewed", "broker", l.broker, "error", err)
		return
	}
	n.publisher.log.Info(n.what()+" renewed: some of what went by the one before is not confirmed, and is given up as in doubt", "broker", l.broker)
	n.adopt(next, c, l)
}

// lost forgets a link that is gone.
func (n *line) lost(l *link) {
	err := l.why()
	p := n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.link != l {
		return
	}
	n.link, n.retry = nil, time.Now()
	n.told = map[string]bool{}
	p.wake()
	p.heed()
	if n.lazy() {
		n.set(nil)
		p.log.Warn("second connection lost", "broker", l.broker, "error", err)
		return
	}
	n.set(err)
	p.log.Warn("broker lost: mail is spooled until it is back", "broker", l.broker, "error", err)
}

// failed notes an attempt in vain, made as c says. A state is one line in the log, not one for each attempt; but what waiting does not mend is
// told too, once for each time that the broker is away.
func (n *line) failed(c *config.AMQP, err error, pause time.Duration) {
	p := n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.overtaken(c, nil) {
		p.wake() // who waits for it wants another
		return
	}
	if len(n.changed) > 0 {
		pause = 0 // a reload came meanwhile, and wants it tried at once
	}
	n.retry = time.Now().Add(pause)
	n.set(err)
	p.wake()
	if fault := lasting(err); fault != "" && !n.told[fault] {
		if n.told == nil {
			n.told = map[string]bool{}
		}
		n.told[fault] = true
		p.log.Error(n.what()+" still away: "+fault, "error", err)
		return
	}
	p.log.Debug(n.what()+" still away", "error", err, "retry_in_ms", pause.Milliseconds())
}

// what is the line in the log's words.
func (n *line) what() string {
	if n.lazy() {
		return "second connection"
	}
	return "broker"
}

// lasting is what keeps us from a broker that is there, "" where there seems to be none.
func lasting(err error) string {
	if each, several := errors.AsType[brokerErrors](err); several {
		for _, err := range each {
			if fault := lasting(err); fault != "" {
				return fault
			}
		}
		return ""
	}
	if e, ok := errors.AsType[*awayError](err); ok && e.there {
		return "it " + e.reason
	}
	return ""
}

// overtaken tells whether a reload has come before the end of an attempt to connect as c says, in the place of old: it leads elsewhere,
// or is connected already, and what came of the attempt means nothing any more. The caller holds mu.
func (n *line) overtaken(c *config.AMQP, old *link) bool {
	return n.link != old || !sameBroker(n.publisher.config, c)
}

// adopt makes l the link in the place of old, nil where there was none, unless the configuration it was made from is no longer in force.
func (n *line) adopt(l *link, c *config.AMQP, old *link) {
	p := n.publisher
	p.mu.Lock()
	if n.overtaken(c, old) {
		p.mu.Unlock()
		l.close()
		p.wake() // who waits for it wants another
		return
	}
	n.use(l)
	p.mu.Unlock()
}

// use makes l the link to publish on. The caller holds mu.
func (n *line) use(l *link) {
	n.link, n.told = l, map[string]bool{}
	p := n.publisher
	p.passOver(l)
	if !n.lazy() {
		p.exchanges.renew(l.answers)
		p.breakers.forget()
		p.refusals.forget()
	}
	n.set(nil)
	p.heed()
	p.measure()
	n.hand(l)
	if n.lazy() {
		p.log.Info("second connection opened: large mail, mail from the spool and probes go by it", "broker", l.broker)
		return
	}
	p.log.Info("broker connected", "broker", l.broker)
}

// measure notes what the connections in use negotiated. The caller holds mu.
func (p *Publisher) measure() {
	table := mail.MaxTable
	for _, l := range p.lanes() {
		if l.link != nil {
			table = min(table, l.link.table)
		}
	}
	p.table.Store(int64(table))
}

// hand gives l to the lane. The caller holds mu, so that nobody else does.
func (n *line) hand(l *link) {
	select {
	case unseen := <-n.links:
		if unseen != nil {
			n.publisher.retire(unseen)
		}
	default:
	}
	n.links <- l
}

// drop parts with the link, because the configuration leads elsewhere now. The caller holds mu.
func (n *line) drop() {
	n.link, n.retry = nil, time.Time{}
	n.set(nil)
	n.publisher.heed()
	n.hand(nil)
}

// blocked is told when the broker stops or begins again to take mail from l.
func (n *line) blocked(l *link, reason string) {
	p := n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.link != l {
		return
	}
	before := p.live.away
	p.heed()
	p.wake()
	switch after := p.live.away; {
	case before == nil && after != nil:
		p.log.Warn("broker blocked: mail is spooled until it takes mail again", "broker", l.broker, "reason", reason)
	case before != nil && after == nil:
		p.log.Info("broker unblocked", "broker", l.broker)
	}
}

// heed lets no connected line take mail while the broker blocks one of them: an alarm is the whole broker's, but it is told only to who
// publishes. The caller holds mu.
func (p *Publisher) heed() {
	var block error
	for _, l := range p.lanes() {
		if l.link != nil && block == nil {
			block = l.link.refusing()
		}
	}
	for _, l := range p.lanes() {
		if l.link != nil {
			l.set(block)
		}
	}
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
