package routes

import (
	"maps"
	"slices"
)

// Way is where mail of a listener can go, as far as that is known before there is any.
type Way struct {
	Listener *Listener
	Route    int     // its number from 0; -1 is the listener's own destination
	Exchange *string // nil where mail decides it
	Key      *string // nil where mail decides it
	Shape    string  // the key; Unknown stands for each part that mail decides
}

// Unknown is no octet of any key that is configured.
const Unknown = "\x00"

// At is the key that says where it goes, for Listener.Fault and RouteFault.
func (w *Way) At() string {
	if w.Route >= 0 && w.Listener.Routes[w.Route].Exchange == nil {
		return ""
	}
	return "exchange"
}

// Ways returns every way of every listener, in the file's order; of routes that refuse there is none.
func (t *Table) Ways() []Way {
	var all []Way
	for _, l := range t.Listeners {
		if l.fallback != nil {
			all = append(all, l.fallback.way(l, -1))
		}
		for i := range l.routes {
			if r := &l.routes[i]; r.Refusal == nil {
				all = append(all, r.way(l, i))
			}
		}
	}
	return all
}

func (r *Route) way(l *Listener, number int) Way {
	w := Way{Listener: l, Route: number}
	if r.exchange.isLiteral() {
		w.Exchange = &r.exchange.text
	}
	switch {
	case r.key == nil:
		w.Key = new(string)
	case r.key.isLiteral():
		w.Key, w.Shape = &r.key.text, r.key.text
	default:
		for _, p := range r.key.parts {
			if p.name == literal {
				w.Shape += p.text
			} else {
				w.Shape += Unknown
			}
		}
	}
	return w
}

// Exchanges returns the names of the exchanges that are known before there is mail, each once, in order.
func (t *Table) Exchanges() []string {
	names := map[string]bool{}
	var last *template // a listener's many routes mostly share one
	add := func(r *Route) {
		if r.Refusal == nil && r.exchange != last && r.exchange.isLiteral() {
			names[r.exchange.text], last = true, r.exchange
		}
	}
	for _, l := range t.Listeners {
		if l.fallback != nil {
			add(l.fallback)
		}
		for i := range l.routes {
			add(&l.routes[i])
		}
	}
	return slices.Sorted(maps.Keys(names))
}
