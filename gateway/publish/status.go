package publish

import "time"

// State is what the connection to the broker does.
type State string

// The states of the connection.
const (
	Connected State = "connected"
	Blocked   State = "blocked"  // connected, and the broker takes no mail for now
	Retrying  State = "retrying" // no connection; it is tried again for ever
	Unneeded  State = "unneeded" // the second connection, before there is mail for it
)

// Status is the publisher as an operator sees it.
type Status struct {
	State       State             `json:"state"`
	Since       time.Time         `json:"since"`
	Broker      string            `json:"broker,omitempty"` // host:port
	Error       string            `json:"error,omitempty"`
	Retry       *time.Time        `json:"retry,omitempty"`       // the next attempt to connect
	NotReached  []UnreachedStatus `json:"not_reached,omitempty"` // URLs whose last attempt was in vain, while another is in use
	Queued      int               `json:"queued"`                // messages in the publish channel, or waiting for room in it
	Unconfirmed int               `json:"unconfirmed"`           // messages published and not confirmed
	Lanes       []LaneStatus      `json:"lanes"`                 // live, then bulk; the figures above are of both
	Exchanges   map[string]string `json:"unusable_exchanges,omitempty"`
	Unverified  []string          `json:"unverified_exchanges,omitempty"`
	Breakers    []BreakerStatus   `json:"breakers,omitempty"`                  // destinations that do not confirm
	Refused     []RefusalStatus   `json:"refused_destinations,omitempty"`      // ten of an exchange at most
	RefusedMore map[string]int    `json:"refused_destinations_more,omitempty"` // by exchange, how many are not listed
	Topology    []string          `json:"topology_faults,omitempty"`           // what the broker refused to declare
}

// LaneStatus is one of the two ways to the broker.
type LaneStatus struct {
	Name        string     `json:"name"`
	State       State      `json:"state"`
	Since       time.Time  `json:"since"`
	Broker      string     `json:"broker,omitempty"`
	Error       string     `json:"error,omitempty"`
	Retry       *time.Time `json:"retry,omitempty"`
	Queued      int        `json:"queued"`
	Unconfirmed int        `json:"unconfirmed"`
	Octets      int64      `json:"unconfirmed_octets"`
}

// Status returns the present state.
func (p *Publisher) Status() Status {
	live, bulk := p.live.status(), p.bulk.status()
	s := Status{
		State: live.State, Since: live.Since, Broker: live.Broker, Error: live.Error, Retry: live.Retry,
		Queued: live.Queued + bulk.Queued, Unconfirmed: live.Unconfirmed + bulk.Unconfirmed,
		NotReached: p.notReached(),
		Lanes:      []LaneStatus{live, bulk},
		Breakers:   p.breakers.status(),
	}
	s.Refused, s.RefusedMore = p.refusals.status()
	s.Exchanges, s.Unverified = p.exchanges.unusable()
	if l := p.live.current(); l != nil {
		for _, fault := range l.topologyFaults() {
			s.Topology = append(s.Topology, fault.Error())
		}
	}
	return s
}

func (l *lane) status() LaneStatus {
	out := l.window.load()
	s := LaneStatus{Name: l.name, State: Connected, Queued: l.queue.len(), Unconfirmed: out.messages, Octets: out.octets}
	p := l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Since = l.since
	if l.away != nil {
		s.State, s.Error = Blocked, l.away.Error()
	}
	if l.link != nil {
		s.Broker = l.link.broker
		return s
	}
	if l.away == nil {
		s.State = Unneeded
		return s
	}
	due := l.retry
	s.State, s.Retry = Retrying, &due
	return s
}

// Load returns how many messages of the live lane are in the publish channel or wait for room in it, and how many are published and
// not confirmed.
func (p *Publisher) Load() (queued, unconfirmed int) {
	return p.live.queue.len(), p.live.window.load().messages
}

// Unusable tells whether an exchange is in quarantine: nothing is published to it for now.
func (p *Publisher) Unusable(exchange string) bool { return p.exchanges.fault(exchange) != nil }
