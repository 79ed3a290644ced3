package publish

import "time"

// State is what the connection to the broker does.
type State string

// The states of the connection.
const (
	Connected State = "connected"
	Blocked   State = "blocked"  // connected, and the broker takes no mail for now
	Retrying  State = "retrying" // no connection; it is tried again for ever
)

// Status is the publisher as an operator sees it.
type Status struct {
	State       State             `json:"state"`
	Since       time.Time         `json:"since"`
	Broker      string            `json:"broker,omitempty"` // host:port
	Error       string            `json:"error,omitempty"`
	Retry       *time.Time        `json:"retry,omitempty"` // the next attempt to connect
	Queued      int               `json:"queued"`          // messages in the publish channel, or waiting for room in it
	Unconfirmed int               `json:"unconfirmed"`     // messages published and not confirmed
	Exchanges   map[string]string `json:"unusable_exchanges,omitempty"`
}

// Status returns the present state.
func (p *Publisher) Status() Status {
	s := Status{
		State:       Connected,
		Queued:      p.queue.len(),
		Unconfirmed: p.window.len(),
		Exchanges:   p.exchanges.names(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Since = p.since
	if p.away != nil {
		s.State, s.Error = Blocked, p.away.Error()
	}
	if p.link == nil {
		s.State = Retrying
		due := p.retry
		s.Retry = &due
		return s
	}
	s.Broker = p.link.broker
	return s
}

// Load returns how many messages are in the publish channel or wait for room in it, and how many are published and not confirmed.
func (p *Publisher) Load() (queued, unconfirmed int) { return p.queue.len(), p.window.len() }

// Unusable tells whether an exchange is in quarantine: nothing is published to it for now.
func (p *Publisher) Unusable(exchange string) bool { return p.exchanges.fault(exchange) != nil }
