package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	probeSoonest = 5 * time.Second
	probeLatest  = 5 * time.Minute
	maxLearned   = 10_000 // exchanges that are known without being configured: a template makes them
)

// exchanges knows which may be published to. Those that are missing or forbidden are in quarantine, so that one tenant's mistake
// does not close the channel again and again for everybody; each is asked for again until it works.
type exchanges struct {
	log  *slog.Logger
	wake chan struct{}

	// guarded by mu
	mu    sync.RWMutex
	known map[string]*exchange
}

// exchange is what is known of one. The zero value is not verified yet.
type exchange struct {
	configured bool
	usable     bool
	err        error // why it is in quarantine
	code       int   // of err: amqp.NotFound or amqp.AccessRefused; 0 where there is none
	pause      time.Duration
	next       time.Time // when it is asked for again, where it is not usable
}

func newExchanges(log *slog.Logger) *exchanges {
	return &exchanges{log: log, wake: make(chan struct{}, 1), known: map[string]*exchange{}}
}

// ask tells whether the exchange is verified, and why nothing may be published to it: nil where it may. One that was never heard of
// is verified from now on. The default exchange is always there, but it may be forbidden.
func (e *exchanges) ask(name string) (verified bool, err error) {
	e.mu.RLock()
	x := e.known[name]
	if x != nil {
		verified, err = x.usable, x.err
	}
	e.mu.RUnlock()
	if x != nil || name == "" {
		return verified || name == "" && err == nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known[name] == nil && len(e.known) < maxLearned {
		e.known[name] = &exchange{}
		e.look()
	}
	return false, nil
}

// fault tells why nothing may be published to the exchange: nil where it may.
func (e *exchanges) fault(name string) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if x := e.known[name]; x != nil {
		return x.err
	}
	return nil
}

// configure replaces the exchanges that are configured. answers are what the broker said of them, see survey.
func (e *exchanges) configure(names []string, answers map[string]answer) {
	e.mu.Lock()
	old := e.known
	e.known = make(map[string]*exchange, len(names))
	for _, name := range names {
		x := old[name]
		if x == nil {
			x = &exchange{}
		}
		x.configured = true
		e.known[name] = x
	}
	e.mu.Unlock()
	e.note(answers)
}

// renew forgets what another connection's broker said, but for quarantines, and takes answers instead.
func (e *exchanges) renew(answers map[string]answer) {
	e.mu.Lock()
	for _, x := range e.known {
		x.usable, x.pause, x.next = false, 0, time.Time{}
	}
	e.mu.Unlock()
	e.note(answers)
}

// note takes what the broker said of exchanges: nil, or a refusal.
func (e *exchanges) note(answers map[string]answer) {
	e.mu.Lock()
	for name, a := range answers {
		if x := e.known[name]; a.err == nil && x != nil && x.code != a.code {
			continue // asked before the quarantine that it would end
		}
		e.answer(name, a.err)
	}
	e.mu.Unlock()
	e.look()
}

// answer is note for one exchange. The caller holds mu.
func (e *exchanges) answer(name string, err error) {
	x := e.known[name]
	if x == nil {
		x = &exchange{}
		e.known[name] = x
	}
	refusal, refused := errors.AsType[*amqp.Error](err)
	switch {
	case err == nil:
		if x.err != nil {
			e.log.Info("exchange usable again", "exchange", name)
		}
		*x = exchange{configured: x.configured, usable: true}
	case refused && (refusal.Code == amqp.NotFound || refusal.Code == amqp.AccessRefused):
		if x.err == nil {
			e.log.Warn("exchange unusable: mail for it is not published until it works", "exchange", name, "error", refusal.Reason)
		}
		x.pause = min(max(2*x.pause, probeSoonest), probeLatest)
		x.usable, x.code, x.next = false, refusal.Code, time.Now().Add(x.pause)
		x.err = fmt.Errorf("exchange %q: %s", name, refusal.Reason)
	default: // the question was lost
		x.next = time.Now().Add(probeSoonest)
	}
}

// blame puts an exchange into quarantine for which the broker closed a channel.
func (e *exchanges) blame(name string, reason *amqp.Error) {
	e.mu.Lock()
	x := e.known[name]
	if x == nil || x.err == nil { // several channels may have closed for it
		e.answer(name, reason)
	}
	e.mu.Unlock()
	e.look()
}

// unusable returns the exchanges in quarantine and why, and those that are not verified yet.
func (e *exchanges) unusable() (shut map[string]string, unverified []string) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	shut = map[string]string{}
	for name, x := range e.known {
		switch {
		case x.err != nil && len(shut) < maxListed:
			shut[name] = x.err.Error()
		case x.err == nil && !x.usable && len(unverified) < maxListed:
			unverified = append(unverified, name)
		}
	}
	slices.Sort(unverified)
	return shut, unverified
}

// run verifies what is not usable until ctx ends, on the link that current returns; nil is none.
func (e *exchanges) run(ctx context.Context, current func() *link) {
	for {
		timer := time.NewTimer(e.untilNext())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.wake:
			timer.Stop()
			continue
		case <-timer.C:
		}
		if l := current(); l != nil && !l.broken() && l.refusing() == nil {
			l.ask(e.due(), func(a answer) bool {
				e.note(map[string]answer{a.exchange: a})
				return ctx.Err() == nil
			})
		} else {
			e.postpone()
		}
	}
}

func (e *exchanges) untilNext() time.Duration {
	e.mu.RLock()
	defer e.mu.RUnlock()
	wait := probeLatest
	for _, x := range e.known {
		if !x.usable {
			wait = min(wait, max(time.Until(x.next), 0))
		}
	}
	return wait
}

func (e *exchanges) postpone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.known {
		x.next = time.Now().Add(probeSoonest)
	}
}

// hurry has the next refusal of names, which are in quarantine, followed by the next question as soon as the first one was.
func (e *exchanges) hurry(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		if x := e.known[name]; x != nil {
			x.pause = 0
		}
	}
}

func (e *exchanges) look() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// due returns the exchanges to ask for now, as questions.
func (e *exchanges) due() []question {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var due []question
	for name, x := range e.known {
		if !x.usable && !time.Now().Before(x.next) {
			due = append(due, question{name, x.code})
		}
	}
	return due
}

// questions returns all of names as questions; without names, of the exchanges that are known.
func (e *exchanges) questions(names []string) []question {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]question, 0, max(len(names), len(e.known)))
	for _, name := range names {
		q := question{exchange: name}
		if x := e.known[name]; x != nil {
			q.code = x.code
		}
		all = append(all, q)
	}
	if names != nil {
		return all
	}
	for name, x := range e.known {
		all = append(all, question{name, x.code})
	}
	return all
}
