package publish

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Dial connects once to the first broker of c that answers, for a command: name is what the broker's operators see of it. The end of
// ctx cuts the attempt, not the connection. No error carries a secret.
func Dial(ctx context.Context, c *config.AMQP, name string) (conn *amqp.Connection, broker string, err error) {
	l, err := dialAny(ctx, c, to{name: name})
	if err != nil {
		return nil, "", err
	}
	return l.amqp, l.broker, nil
}

// to is who dials.
type to struct {
	name   string              // for the broker's operators
	first  int                 // which URL is tried first
	notify func(*link, string) // told when the broker blocks and unblocks; nil where nobody is
}

// Unreached is a URL of amqp.urls that led to no broker.
type Unreached struct {
	URL int // its place in the list, from 0
	Err error
}

// dialAny dials each URL of c once, in turn, until one answers. What ctx leaves of the time is shared evenly among those that are
// left, so that a silent one does not use up the time of the others. Its error tells of all.
func dialAny(ctx context.Context, c *config.AMQP, t to) (*link, error) {
	if len(c.URLs) == 0 {
		return nil, errors.New("amqp.urls names no broker")
	}
	var passed []Unreached
	for i := range c.URLs {
		at := (t.first + i) % len(c.URLs)
		limited, cancel := share(ctx, len(c.URLs)-i)
		l, err := dial(limited, c, c.URLs[at], t)
		cancel()
		if err == nil {
			l.url, l.passed = at, passed
			return l, nil
		}
		passed = append(passed, Unreached{at, err})
		if ctx.Err() != nil {
			break
		}
	}
	errs := make(brokerErrors, len(passed))
	for i := range passed {
		errs[i] = passed[i].Err
	}
	return nil, errs
}

// dialAll dials all URLs of c at once. It returns the link of the first that answers, in their order, nil where none does, and those
// that do not.
func dialAll(ctx context.Context, c *config.AMQP, t to) (first *link, unreached []Unreached) {
	links, errs := make([]*link, len(c.URLs)), make([]error, len(c.URLs))
	var dialing sync.WaitGroup
	for i, url := range c.URLs {
		dialing.Go(func() { links[i], errs[i] = dial(ctx, c, url, t) })
	}
	dialing.Wait()
	for i, l := range links {
		switch {
		case errs[i] != nil:
			unreached = append(unreached, Unreached{i, errs[i]})
		case first == nil:
			first, l.url = l, i
		default:
			l.close()
		}
	}
	return first, unreached
}

// share bounds ctx to one of n equal parts of the time that it leaves.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	by, limited := ctx.Deadline()
	if !limited {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(by)/time.Duration(n))
}

// brokerErrors is why none of several brokers is to be had, one line for all.
type brokerErrors []error

func (e brokerErrors) Error() string {
	told := make([]string, len(e))
	for i, err := range e {
		told[i] = err.Error()
	}
	return strings.Join(told, "; ")
}

func (e brokerErrors) Unwrap() []error { return e }
