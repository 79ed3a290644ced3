package publish

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	probeSoonest = 5 * time.Second
	probeLatest  = 5 * time.Minute
)

// exchanges knows those that are missing or forbidden, so that one tenant's mistake does not close the channel again and
// again for everybody. Each is probed on a channel of its own until it works.
type exchanges struct {
	log  *slog.Logger
	wake chan struct{}

	// guarded by mu
	mu   sync.Mutex
	shut map[string]*quarantine
}

type quarantine struct {
	err   error
	code  int // amqp.NotFound or amqp.AccessRefused
	pause time.Duration
	next  time.Time
}

func newExchanges(log *slog.Logger) *exchanges {
	return &exchanges{log: log, wake: make(chan struct{}, 1), shut: map[string]*quarantine{}}
}

// fault tells why nothing may be published to the exchange: nil where it may.
func (e *exchanges) fault(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if q := e.shut[name]; q != nil {
		return q.err
	}
	return nil
}

// blame quarantines the exchange that err, the reason for closing a channel, names. It tells whether it names one.
func (e *exchanges) blame(err *amqp.Error) bool {
	if err == nil || err.Code != amqp.NotFound && err.Code != amqp.AccessRefused {
		return false
	}
	name, ok := culprit(err.Reason)
	if !ok {
		return false
	}
	e.mu.Lock()
	if e.shut[name] == nil {
		e.shut[name] = &quarantine{
			err: fmt.Errorf("exchange %q: %s", name, err.Reason), code: err.Code,
			pause: probeSoonest, next: time.Now().Add(probeSoonest),
		}
		e.log.Warn("exchange unusable: mail for it is not published until it works",
			"exchange", name, "error", err.Reason)
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return true
}

// culprit finds the exchange in a reason like "NOT_FOUND - no exchange 'x' in vhost '/'". The name may hold quotes itself.
func culprit(reason string) (string, bool) {
	if strings.Contains(reason, "default exchange") {
		return "", true
	}
	_, rest, ok := strings.Cut(reason, "exchange '")
	if !ok {
		return "", false
	}
	end := strings.LastIndex(rest, "' in vhost '")
	if end < 0 {
		return "", false
	}
	return rest[:end], true
}

// names returns the exchanges in quarantine and why.
func (e *exchanges) names() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for name, q := range e.shut {
		out[name] = q.err.Error()
	}
	return out
}

// run probes until ctx ends, on the link that current returns; nil is none.
func (e *exchanges) run(ctx context.Context, current func() *link) {
	for {
		wait := e.untilNext()
		timer := time.NewTimer(wait)
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
			e.probeDue(l)
		} else {
			e.postpone()
		}
	}
}

func (e *exchanges) untilNext() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	wait := probeLatest
	for _, q := range e.shut {
		wait = min(wait, max(time.Until(q.next), 0))
	}
	return wait
}

func (e *exchanges) postpone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, q := range e.shut {
		q.next = time.Now().Add(probeSoonest)
	}
}

// probeNow makes every quarantined exchange due.
func (e *exchanges) probeNow() {
	e.mu.Lock()
	for _, q := range e.shut {
		q.next, q.pause = time.Now(), probeSoonest
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *exchanges) probeDue(l *link) {
	for name, code := range e.due() {
		err := probe(l, name, code)
		if l.broken() {
			return
		}
		e.mu.Lock()
		if err == nil {
			delete(e.shut, name)
			e.log.Info("exchange usable again", "exchange", name)
		} else if q := e.shut[name]; q != nil {
			q.pause = min(2*q.pause, probeLatest)
			q.next = time.Now().Add(q.pause)
		}
		e.mu.Unlock()
	}
}

// due returns the exchanges to probe now, and the code that shut each.
func (e *exchanges) due() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	due := map[string]int{}
	for name, q := range e.shut {
		if !time.Now().Before(q.next) {
			due[name] = q.code
		}
	}
	return due
}

// probe tells whether the exchange works, on a channel that the answer may close. A passive declare tells whether it exists;
// whether we may write to it, only a publish does: one with an invalid expiration is answered by 406 and routes nothing.
func probe(l *link, name string, code int) error {
	ch, err := l.amqp.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	if code == amqp.NotFound {
		return ch.ExchangeDeclarePassive(name, amqp.ExchangeDirect, false, false, false, false, nil)
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.Publish(name, "lsmtpd.probe", false, false, amqp.Publishing{Expiration: "invalid"}); err != nil {
		return err
	}
	if err := <-closed; err != nil && err.Code != amqp.PreconditionFailed {
		return err
	}
	return nil
}
