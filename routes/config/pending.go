package config

import (
	"reflect"
	"slices"
	"strings"
)

// What the file may say already and the daemon cannot do yet. A value other than the default is refused: ignoring it would
// be worse.
var (
	pendingKeys    = []string{"admin.address"}
	pendingSchemes = []string{"systemd:"} // what an address may begin with
)

// pending reports what was written well and is not supported yet.
func (d *decoder) pending(c *Config) {
	for _, key := range pendingKeys {
		if c.marks.own(key) {
			d.pendingKey(Fault{Place: c.At(key), Key: key}, root, reflect.ValueOf(c).Elem(), key)
		}
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		d.pendingScheme(l.Fault("address", ""), l.Address)
	}
}

// pendingKey reports key of the struct v as f, unless it is the default, or wrong already.
func (d *decoder) pendingKey(f Fault, g *group, v reflect.Value, key string) {
	name, below, nested := strings.Cut(key, ".")
	at := &g.fields[g.byKey[name]]
	if nested && at.value(v).Kind() == reflect.Struct {
		d.pendingKey(f, at.group, at.value(v), below)
		return
	}
	got, standard := at.value(v), at.value(g.proto)
	empty := got.Kind() == reflect.Slice && got.Len()+standard.Len() == 0
	if empty || reflect.DeepEqual(got.Interface(), standard.Interface()) || d.faulted(f.Key) {
		return
	}
	f.Message = "is not supported yet: leave it out"
	if at.standard != "" {
		f.Message += ", or at its default, " + at.standard
	}
	d.report(f)
}

func (d *decoder) pendingScheme(f Fault, text string) {
	for _, scheme := range pendingSchemes {
		if strings.HasPrefix(text, scheme) {
			f.Message = scheme + " is not supported yet"
			d.report(f)
		}
	}
}

// faulted tells whether something was found wrong with key, or below it.
func (d *decoder) faulted(key string) bool {
	return slices.ContainsFunc(*d.faults, func(f Fault) bool {
		rest, found := strings.CutPrefix(f.Key, key)
		return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}
