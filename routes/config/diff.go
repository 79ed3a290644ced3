package config

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Change is one key that two configurations have differently.
type Change struct {
	Key     string `json:"path"`          // listeners by name, like listeners[inbound].size_limit
	Place   Place  `json:"place"`         // in the new file; of what is around it where the key is not there
	Old     string `json:"old,omitempty"` // as the file would have it, "" for nothing, secrets masked
	New     string `json:"new,omitempty"`
	Effect  string `json:"effect"`            // when it is in force: session | transaction | live
	Removed bool   `json:"removed,omitempty"` // the new file says less: the key is gone, or a list or mapping is shorter
}

// What stands for a value that is not shown.
const (
	masked   = "(secret)"
	variable = "(from the environment)" // it may be a secret
)

// Diff tells what changed between two configurations. It returns changes of top keys first, then the new listeners in their
// order, then those that are gone. A renamed listener is one that is gone and one that is new.
func Diff(old, new *Config) []Change {
	d := &differ{before: &old.marks, after: &new.marks, at: new.At}
	d.group(root, reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem())
	if old.AMQP.PasswordFile == new.AMQP.PasswordFile && old.AMQP.Password != new.AMQP.Password {
		d.add(Change{Key: "amqp.password_file", Place: new.At("amqp.password_file"), Old: masked, New: masked, Effect: "live"})
	}
	if old.AMQP.TLS != nil && new.AMQP.TLS != nil {
		d.brokerCertificates(old.AMQP.TLS, new.AMQP.TLS)
	}
	before := make(map[string]*Listener, len(old.Listeners))
	for i := range old.Listeners {
		before[old.Listeners[i].Name] = &old.Listeners[i]
	}
	for i := range new.Listeners {
		l := &new.Listeners[i]
		if o := before[l.Name]; o != nil {
			d.listener(o, l)
			delete(before, l.Name)
			continue
		}
		d.add(Change{Key: "listeners[" + l.Name + "]", Place: l.Place, New: l.Address, Effect: "live"})
	}
	for i := range old.Listeners {
		if l := &old.Listeners[i]; before[l.Name] != nil {
			d.add(Change{Key: "listeners[" + l.Name + "]", Place: new.At("listeners"), Old: l.Address, Effect: "live", Removed: true})
		}
	}
	return d.changes
}

// differ collects the changes of one carrier after the other.
type differ struct {
	changes       []Change
	inside        string // the carrier at work, like "listeners[inbound]."
	before, after *marks // the carrier's
	at            func(key string) Place
}

func (d *differ) add(c Change) { d.changes = append(d.changes, c) }

// group compares the keys of two structs; carriers inside are left to the caller.
func (d *differ) group(g *group, old, new reflect.Value) {
	for i := range g.fields {
		f := &g.fields[i]
		a, b := f.value(old), f.value(new)
		switch {
		case f.kept:
		case f.group != nil && a.Kind() == reflect.Struct:
			d.group(f.group, a, b)
		case f.group != nil && a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
			d.group(f.group, a.Elem(), b.Elem())
		case !same(a, b):
			d.add(Change{
				Key: d.inside + f.path, Place: d.at(f.path), Old: f.showMarked(a, d.before), New: f.showMarked(b, d.after), Effect: f.effect,
				Removed: shorter(a, b) || d.before.has(f.path) && !d.after.has(f.path),
			})
		}
	}
}

// same compares two values; lists and maps without entries are the same.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len()+b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// shorter tells whether b is a list or mapping of fewer entries than a.
func shorter(a, b reflect.Value) bool {
	k := a.Kind()
	return (k == reflect.Slice || k == reflect.Map) && b.Len() < a.Len()
}

func (d *differ) listener(old, new *Listener) {
	d.inside, d.before, d.after, d.at = "listeners["+new.Name+"].", &old.marks, &new.marks, new.At
	d.group(listenerGroup, reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem())
	if old.TLS != nil && new.TLS != nil {
		d.certificates(old.TLS, new.TLS)
	}
	d.routes(old.Routes, new)
}

// certificates compares what files of the same names held.
func (d *differ) certificates(old, new *TLS) {
	add := func(key, a, b string) {
		d.add(Change{Key: d.inside + key, Place: d.at(key), Old: a, New: b, Effect: "session"})
	}
	if len(old.Pairs) == len(new.Pairs) && old.CertFile == new.CertFile && slices.Equal(old.Certificates, new.Certificates) {
		for i := range new.Pairs {
			key := "tls.cert_file"
			if new.CertFile == "" {
				key = "tls.certificates[" + strconv.Itoa(i) + "].cert_file"
			}
			if a, b := &old.Pairs[i], &new.Pairs[i]; !sameCertificate(a, b) {
				add(key, showCertificate(a), showCertificate(b))
			}
		}
	}
	if old.ClientCAFile == new.ClientCAFile && !old.ClientCAs.Equal(new.ClientCAs) {
		add("tls.client_ca_file", old.ClientCAFile, new.ClientCAFile)
	}
}

// brokerCertificates compares what files of the same names held for the connection to the broker.
func (d *differ) brokerCertificates(old, new *AMQPTLS) {
	add := func(key, a, b string) {
		d.add(Change{Key: key, Place: d.at(key), Old: a, New: b, Effect: "live"})
	}
	if old.CAFile == new.CAFile && !old.CAs.Equal(new.CAs) {
		add("amqp.tls.ca_file", old.CAFile, new.CAFile)
	}
	if old.CertFile == new.CertFile && !sameCertificate(&old.Pair, &new.Pair) {
		add("amqp.tls.cert_file", showCertificate(&old.Pair), showCertificate(&new.Pair))
	}
}

// showCertificate tells one certificate from the one that it replaces.
func showCertificate(c *tls.Certificate) string {
	return fmt.Sprintf("serial %x, valid until %s", c.Leaf.SerialNumber, c.Leaf.NotAfter.UTC().Format(time.DateOnly))
}

// routes compares two lists of routes. What both begin and end with is left out; if as many remain on both sides they are
// compared one by one, else they were taken out and put in.
func (d *differ) routes(old []Route, l *Listener) {
	new, head := l.Routes, 0
	for len(old) > 0 && len(new) > 0 && old[0].same(&new[0]) {
		old, new, head = old[1:], new[1:], head+1
	}
	for len(old) > 0 && len(new) > 0 && old[len(old)-1].same(&new[len(new)-1]) {
		old, new = old[:len(old)-1], new[:len(new)-1]
	}
	listener, key := d.inside, func(i int) string { return "routes[" + strconv.Itoa(head+i) + "]" }
	if len(old) == len(new) {
		for i := range new {
			d.inside, d.before, d.after, d.at = listener+key(i)+".", &old[i].marks, &new[i].marks, new[i].At
			d.group(routeGroup, reflect.ValueOf(&old[i]).Elem(), reflect.ValueOf(&new[i]).Elem())
		}
		return
	}
	for i := range old {
		d.add(Change{Key: listener + key(i), Place: l.At("routes"), Old: old[i].show(), Effect: "transaction", Removed: true})
	}
	for i := range new {
		d.add(Change{Key: listener + key(i), Place: new[i].Place, New: new[i].show(), Effect: "transaction"})
	}
}

func (r *Route) show() string {
	if r.marks.variable("") {
		return variable
	}
	return routeGroup.show(reflect.ValueOf(r).Elem())
}

// same compares what is written in two routes: a table may hold a hundred thousand, too many for reflection.
func (r *Route) same(o *Route) bool {
	return r.Name == o.Name && r.Reject == o.Reject && r.Format == o.Format &&
		sameText(r.Exchange, o.Exchange) && sameText(r.RoutingKey, o.RoutingKey) && maps.Equal(r.Headers, o.Headers) &&
		slices.Equal(r.Match.Recipient, o.Match.Recipient) && slices.Equal(r.Match.Sender, o.Match.Sender) &&
		slices.Equal(r.Match.Client, o.Match.Client) && slices.Equal(r.Match.User, o.Match.User)
}

func sameText(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// showMarked is show, and tells nothing that the environment gave.
func (f *field) showMarked(v reflect.Value, m *marks) string {
	if m.variable(f.path) {
		return variable
	}
	return f.show(v)
}

// show writes a value as the file would have it; "" is nothing.
func (f *field) show(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		return ""
	case v.Kind() == reflect.Pointer:
		v = v.Elem()
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return ""
	case f.secret && f.kind.show == nil:
		return masked
	}
	switch v.Kind() {
	case reflect.Slice:
		entries := make([]string, v.Len())
		for i := range entries {
			entries[i] = f.show(v.Index(i))
		}
		return "[" + strings.Join(entries, ", ") + "]"
	case reflect.Map:
		return showMap(v.Interface())
	}
	switch {
	case f.group != nil:
		return f.group.show(v)
	case f.kind.show != nil:
		return f.kind.show(v)
	}
	return v.String()
}

// show writes a struct's keys, those left out that are not set.
func (g *group) show(v reflect.Value) string {
	var keys []string
	for i := range g.fields {
		f := &g.fields[i]
		if !f.value(v).IsZero() {
			keys = append(keys, f.key+": "+f.show(f.value(v)))
		}
	}
	return "{" + strings.Join(keys, ", ") + "}"
}

// showMap writes headers or arguments, sorted by key.
func showMap(m any) string {
	switch m := m.(type) {
	case map[string]string:
		return showEntries(m)
	case map[string]any:
		return showEntries(m)
	}
	return fmt.Sprint(m)
}

func showEntries[V any](m map[string]V) string {
	entries := make([]string, 0, len(m))
	for _, k := range slices.SortedFunc(maps.Keys(m), cmp.Compare[string]) {
		entries = append(entries, k+": "+showMap(m[k]))
	}
	if len(entries) == 0 {
		return ""
	}
	return "{" + strings.Join(entries, ", ") + "}"
}
