package publish

import (
	"context"

	"lsmtpd/routes/config"
)

// Inspection asks a broker what mail would meet there. Nothing at the broker changes by it, and nothing is routed. It is for one
// goroutine.
type Inspection struct {
	Broker  string // host:port
	scratch scratch
	unbind  func() bool
}

// Inspect connects to the first broker of c that answers. When ctx ends, the connection is cut.
func Inspect(ctx context.Context, c *config.AMQP) (*Inspection, error) {
	l, _, err := dialAny(ctx, c, to{name: "lsmtpd check"})
	if err != nil {
		return nil, err
	}
	return &Inspection{l.broker, scratch{link: l}, context.AfterFunc(ctx, func() { l.conn.Close() })}, nil
}

// Exchange returns nil where mail could be published to the exchange; otherwise the broker's refusal. The exchange is asked for by a
// publish that the broker refuses in any case, and logs.
func (i *Inspection) Exchange(name string) error {
	if err := i.scratch.ask(question{exchange: name}); err != nil {
		return err
	}
	return i.scratch.writable(name)
}

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
