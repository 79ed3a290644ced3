package publish

import (
	"context"

	"lsmtpd/routes/config"
)

// Inspection asks a broker what mail would meet there. Nothing at the broker changes by it, and nothing is routed. It is for one
// goroutine.
type Inspection struct {
	Broker  string // host:port
	URL     int    // its place in amqp.urls, from 0
	scratch scratch
	unbind  func() bool
}

// Inspect connects to every URL of c at once. The Inspection is of the first that answers, nil where none does; the others are told of.
// When ctx ends, the connection is cut, as it is when the broker blocks it: it would answer nothing more.
func Inspect(ctx context.Context, c *config.AMQP) (*Inspection, []Unreached) {
	cut := func(l *link, _ string) { l.conn.Close() }
	limited, cancel := share(ctx, 2) // the rest of the time is for the questions
	defer cancel()
	l, unreached := dialAll(limited, c, to{name: "lsmtpd check", notify: cut})
	if l == nil {
		return nil, unreached
	}
	return &Inspection{l.broker, l.url, scratch{link: l}, context.AfterFunc(ctx, func() { l.conn.Close() })}, unreached
}

// Blocked tells why the broker takes no mail now: nil where it does, as far as it was told. Then it answers nothing more. It is
// told only after Writable or Takes.
func (i *Inspection) Blocked() error { return i.scratch.link.refusing() }

// Exchange returns nil where the exchange exists; otherwise the broker's refusal.
func (i *Inspection) Exchange(name string) error { return i.scratch.ask(question{exchange: name}) }

// Writable returns nil where mail could be published to the exchange; otherwise the broker's refusal. It is asked for by a publish that
// the broker refuses in any case, and logs.
func (i *Inspection) Writable(name string) error { return i.scratch.writable(name) }

// Queue returns nil where the queue exists; otherwise the broker's refusal.
func (i *Inspection) Queue(name string) error {
	return i.scratch.queue(name)
}

// Takes returns nil where the broker takes messages of so many octets for an exchange that it lets us write to; otherwise its refusal.
// It sends them.
func (i *Inspection) Takes(exchange string, octets int64) error {
	return i.scratch.write(exchange, make([]byte, octets))
}

// Topology tells what the broker has otherwise than t says. Only what is there is declared, which changes nothing.
func (i *Inspection) Topology(t config.Topology) []error {
	there := config.Topology{}
	for _, e := range t.Exchanges {
		if i.scratch.ask(question{exchange: e.Name}) == nil {
			there.Exchanges = append(there.Exchanges, e)
		}
	}
	for _, q := range t.Queues {
		if i.Queue(q.Name) == nil {
			there.Queues = append(there.Queues, q)
		}
	}
	return declare(i.scratch.link, there)
}

// MaxTable returns how many octets of a header table one frame of the broker has room for, see Publisher.MaxTable.
func (i *Inspection) MaxTable() int { return i.scratch.link.table }

// Close hangs up.
func (i *Inspection) Close() {
	i.unbind()
	i.scratch.link.close()
}
