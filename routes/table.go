// Package routes decides where a recipient's mail goes. It holds the operator's configuration compiled into one immutable
// Table, and knows no YAML, no file and no socket.
package routes

import (
	"net/netip"

	"lsmtpd/routes/address"
	"lsmtpd/routes/config"
)

// Table is one configuration in force: immutable, and replaced as a whole.
type Table struct {
	Config    *config.Config
	Listeners []*Listener
	Warnings  config.Faults // the file's and those that only the whole shows
	Broken    config.Faults // of included files whose listeners of before are kept; see include_errors
}

// Listener is one listener's settings and its routes, compiled.
type Listener struct {
	*config.Listener
	routes   []Route
	fallback *Route // the listener's own exchange and key; nil where it has none
}

// Route is one compiled route: a refusal, or templates of a destination.
type Route struct {
	Name    string // as configured, else its number like "#3"; "default" for the listener's own destination
	Refusal *Refusal

	match         matcher
	exchange, key *template // key nil: the empty key
	format        string
	headers       []header
	static        map[string]string // the headers, where they are the same for every mail
}

// Refusal is the reply of a route that rejects.
type Refusal struct {
	Code     int    // 4yz or 5yz
	Enhanced string // like "5.7.1"; its class is Code's
	Text     string // printable US-ASCII
}

// Query is what a route is chosen by.
type Query struct {
	Sender    address.Address
	Recipient address.Address
	Client    netip.Addr
	User      string // "" where the session did not authenticate
}

// Destination is where one recipient's mail goes, rendered.
type Destination struct {
	Exchange   string            // "" is AMQP's default exchange; may be over 255 octets, as the key
	RoutingKey string            // may be over 255 octets: the caller refuses the recipient then (501 5.1.3)
	Format     string            // json | raw
	Headers    map[string]string // shared, not to be changed; never nil
}

// Batch is recipients of one mail that travel in one AMQP message.
type Batch struct {
	Destination
	Recipients []address.Address
}

// Route returns the first route that takes q's recipient, else the listener's own destination, else nil (550 5.1.1).
// It does not allocate.
func (l *Listener) Route(q *Query) *Route {
	for i := range l.routes {
		if r := &l.routes[i]; r.match.holds(q) {
			return r
		}
	}
	return l.fallback
}

// Destination renders r for q. r.Refusal must be nil.
func (r *Route) Destination(q *Query) Destination {
	d := Destination{Exchange: r.exchange.render(q, asHeader), Format: r.format, Headers: r.static}
	if r.key != nil {
		d.RoutingKey = r.key.render(q, asKey)
	}
	if d.Headers == nil {
		d.Headers = make(map[string]string, len(r.headers))
		for _, h := range r.headers {
			d.Headers[h.name] = h.value.render(q, asHeader)
		}
	}
	return d
}
