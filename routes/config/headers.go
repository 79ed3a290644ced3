package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	maxShortString = 255      // octets of an AMQP short string: names, keys, header keys
	maxHeaders     = 16 << 10 // octets of configured headers: the whole table must fit in a frame
)

// readHeaders reads AMQP headers: a mapping of text.
func (d *decoder) readHeaders(n *yaml.Node, v reflect.Value, f *field) {
	at := n
	n = target(n)
	if n.Kind != yaml.MappingNode {
		d.fault(at, d.key(f), shape(n)+" where keys and values are wanted (like tenant: a)")
		return
	}
	headers, octets := make(map[string]string, len(n.Content)/2), 0
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if wrong := headerName(name); wrong != "" {
			d.fault(name, d.key(f), wrong)
			continue
		}
		key := d.key(f) + "." + name.Value
		if _, twice := headers[name.Value]; twice {
			d.fault(name, key, "is there twice")
			continue
		}
		d.mark(key, value)
		text, _ := d.text(value, key, "text", nil)
		headers[name.Value] = text
		octets += len(name.Value) + len(text)
	}
	if octets > maxHeaders {
		d.fault(at, d.key(f), "are "+strconv.Itoa(octets)+" octets together: at most "+strconv.Itoa(maxHeaders)+" fit")
	}
	v.Set(reflect.ValueOf(headers))
}

// headerName tells why a header cannot have this name. RabbitMQ takes CC and BCC for further routing keys and keeps its
// own record in x-death; lsmtpd-* is ours.
func headerName(n *yaml.Node) string {
	name := n.Value
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Tag == "!!merge" || name == "" || control(name):
		return "a header needs a name"
	case len(name) > maxShortString:
		return "the name " + quote(name) + " is over 255 octets, more than AMQP takes"
	case slices.Contains([]string{"cc", "bcc", "x-death"}, strings.ToLower(name)):
		return quote(name) + " is a header that RabbitMQ acts on: choose another name"
	case strings.HasPrefix(strings.ToLower(name), "lsmtpd-"):
		return quote(name) + " begins with lsmtpd-, which is kept for lsmtpd's own headers: choose another name"
	}
	return ""
}

// readArguments reads what is passed on to the broker as an AMQP table.
func (d *decoder) readArguments(n *yaml.Node, v reflect.Value, f *field) {
	if target(n).Kind != yaml.MappingNode {
		d.fault(n, d.key(f), shape(target(n))+" where keys and values are wanted (like x-queue-type: quorum)")
		return
	}
	v.Set(reflect.ValueOf(d.table(n, d.key(f), 1)))
}

// table reads a mapping of any values, which lies depth deep inside others.
func (d *decoder) table(n *yaml.Node, key string, depth int) map[string]any {
	n = target(n)
	table := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" || name.Value == "" || len(name.Value) > maxShortString {
			d.fault(name, key, "a key here is text of 1 to 255 octets")
			continue
		}
		if _, twice := table[name.Value]; twice {
			d.fault(name, key+"."+name.Value, "is there twice")
			continue
		}
		table[name.Value] = d.argument(value, key+"."+name.Value, depth+1)
	}
	return table
}

// argument reads one value of a table: text, int64, float64, bool, a list or another table.
func (d *decoder) argument(n *yaml.Node, key string, depth int) any {
	n = target(n)
	switch {
	case depth > maxDepth:
		d.fault(n, "", "values too deep inside each other")
		return nil
	case n.Kind == yaml.MappingNode:
		return d.table(n, key, depth)
	case n.Kind == yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, entry := range n.Content {
			list[i] = d.argument(entry, key+"["+strconv.Itoa(i)+"]", depth+1)
		}
		return list
	}
	text, ok := d.text(n, key, "text, a number, true or false", anyScalar)
	if !ok {
		return nil
	}
	switch n.Tag {
	case "!!int":
		i, err := strconv.ParseInt(text, 0, 64)
		if err == nil {
			return i
		}
		d.fault(n, key, quote(text)+" is not a number of 64 bits")
	case "!!float":
		x, err := strconv.ParseFloat(text, 64)
		if err == nil {
			return x
		}
		d.fault(n, key, quote(text)+" is not a number")
	case "!!bool":
		return text == "true" || text == "True" || text == "TRUE"
	}
	return text
}
