package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// keepListeners leaves the listeners for later: they begin with the defaults, which may stand behind them.
func (d *decoder) keepListeners(n *yaml.Node, _ reflect.Value, _ *field) { d.listeners = n }

func (d *decoder) keepDefaults(n *yaml.Node, _ reflect.Value, _ *field) { d.defaults = n }

// readDefaults fills l with what the file's defaults: say.
func (d *decoder) readDefaults(l *Listener) {
	*l = listenerGroup.proto.Interface().(Listener)
	l.Key, l.Place = "defaults", Place{File: d.file}
	if d.defaults == nil {
		return
	}
	l.Place = d.place(d.defaults)
	d.inDefaults = true
	l.marks = d.carry(d.defaults, reflect.ValueOf(l).Elem(), listenerGroup, "defaults")
	d.inDefaults = false
}

// readListeners appends the listeners of the file to list, each on top of defaults.
func (d *decoder) readListeners(list []Listener, defaults *Listener) []Listener {
	if d.listeners == nil {
		return list
	}
	entries, ok := d.sequence(d.listeners, "listeners")
	if !ok {
		return list
	}
	list = slices.Grow(list, len(entries))
	for i, entry := range entries {
		list = append(list, *defaults)
		l := &list[len(list)-1]
		l.Key, l.Place = "listeners["+strconv.Itoa(i)+"]", d.place(entry)
		before := len(*d.faults)
		l.marks = d.carry(entry, reflect.ValueOf(l).Elem(), listenerGroup, l.Key)
		l.marks.under = &defaults.marks
		if l.marks.own("name") { // it may stand behind what is wrong
			nameFaults((*d.faults)[before:], l)
		}
	}
	return list
}

// nameFaults enters l's name into those of faults that are in its entry, and not in a file that it names.
func nameFaults(faults Faults, l *Listener) {
	for i := range faults {
		if strings.HasPrefix(faults[i].Key, l.Key) {
			faults[i].listener = l.Name
		}
	}
}

func (d *decoder) readRoutes(n *yaml.Node, v reflect.Value, f *field) {
	entries, ok := d.sequence(n, d.key(f))
	if !ok {
		return
	}
	routes := make([]Route, len(entries))
	all := reflect.ValueOf(routes)
	for i, entry := range entries {
		routes[i].Place = d.place(entry)
		routes[i].marks = d.carry(entry, all.Index(i), routeGroup, "routes["+strconv.Itoa(i)+"]")
	}
	v.Set(all)
}

// check tells a route that would take everybody because nobody said whom.
func (r *Route) check(d *decoder, n *yaml.Node, _ string) {
	m := &r.Match
	empty := len(m.Recipient)+len(m.Sender)+len(m.Client)+len(m.User) == 0
	if !empty || !d.wrote("match") || d.faulted(d.inside+"match") {
		return
	}
	d.faultAt(n, "match", `takes every recipient: write recipient: "*" if that is meant`)
}
