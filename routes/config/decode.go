package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxFaults ends a file that is something else altogether.
const maxFaults = 1000

// decoder turns the nodes of one file into structs, and collects what is wrong with them.
type decoder struct {
	files      *files
	faults     *Faults
	file       string // as faults name it
	main       bool   // not an included one: ${VAR} is replaced
	inDefaults bool
	inside     string     // the carrier at work, like "listeners[1].routes[2]."
	base       string     // from the carrier to the list entry at work, like "tls.certificates[0]."
	marks      []mark     // of the carriers at work
	first      int        // where those of the innermost begin
	defaults   *yaml.Node // kept until all else is read
	listeners  *yaml.Node // the same
}

// checker is a struct that knows what else must hold of it as a whole. key is its own, from its carrier.
type checker interface {
	check(d *decoder, n *yaml.Node, key string)
}

func (d *decoder) place(n *yaml.Node) Place { return Place{d.file, n.Line, n.Column} }

// fault reports what is wrong with the value n of key, which counts from the carrier at work.
func (d *decoder) fault(n *yaml.Node, key, message string) {
	d.report(Fault{Place: d.place(n), Key: strings.TrimSuffix(d.inside+key, "."), Message: message})
}

func (d *decoder) report(f Fault) {
	if len(*d.faults) >= maxFaults {
		d.files.dropped[f.Files()[0]]++
		return
	}
	*d.faults = append(*d.faults, f)
}

// faultAt reports what is wrong with key where its value was marked, else at n.
func (d *decoder) faultAt(n *yaml.Node, key, message string) {
	place := d.place(n)
	for _, m := range d.marks[d.first:] {
		if m.key == key {
			place.Line, place.Col = int(m.line), int(m.col)
		}
	}
	d.report(Fault{Place: place, Key: strings.TrimSuffix(d.inside+key, "."), Message: message})
}

// wrote tells whether key was written in the carrier at work.
func (d *decoder) wrote(key string) bool {
	return slices.ContainsFunc(d.marks[d.first:], func(m mark) bool { return m.key == key })
}

// key returns f's key from the carrier at work.
func (d *decoder) key(f *field) string { return d.base + f.path }

func (d *decoder) mark(key string, n *yaml.Node) {
	d.marks = append(d.marks, mark{key: key, line: int32(n.Line), col: int32(n.Column)})
}

// markVariable notes that the environment gave a part of key's value: it may be a secret, and is not shown.
func (d *decoder) markVariable(key string) {
	for i := len(d.marks) - 1; i >= d.first; i-- {
		if d.marks[i].key == key {
			d.marks[i].variable = true
			return
		}
	}
}

// carry decodes the carrier v from n and returns its marks. key counts from the carrier around it.
func (d *decoder) carry(n *yaml.Node, v reflect.Value, g *group, key string) marks {
	inside, first := d.inside, d.first
	d.first = len(d.marks)
	if key != "" {
		d.inside += key + "."
	}
	d.mapping(n, v, g, "")
	d.check(n, v, "")
	own := marks{file: d.file, keys: slices.Clone(d.marks[d.first:])}
	d.inside, d.marks, d.first = inside, d.marks[:d.first], first
	return own
}

// filling is a struct being filled from a mapping.
type filling struct {
	v     reflect.Value
	group *group
	key   string // from the carrier at work
	seen  uint64 // keys that were written, a bit each
}

// mapping reads n into v, whose defaults are filled in already.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, g *group, key string) {
	at := n
	n = target(n)
	if n.Kind != yaml.MappingNode {
		d.fault(at, key, shape(n)+" where keys and values are wanted (like "+g.fields[0].key+": …)")
		return
	}
	fill := filling{v: v, group: g, key: key}
	d.pairs(n, &fill)
	for i := range g.fields {
		f := &g.fields[i]
		switch written := fill.seen&(1<<i) != 0; {
		case f.need && !written && !(f.own && d.inDefaults):
			d.fault(at, d.key(f), "is missing")
		case f.own && written && d.inDefaults:
			d.faultAt(at, d.key(f), "is each listener's own: write it there")
		}
	}
}

// pairs reads the keys of n that were not seen yet: first its own, then those it merges (<<), as YAML has it.
func (d *decoder) pairs(n *yaml.Node, fill *filling) {
	var merged []*yaml.Node
	var here uint64
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		j, known := fill.group.byKey[name.Value]
		if !known || name.Kind != yaml.ScalarNode {
			d.unknown(name, fill)
			continue
		}
		f, bit := &fill.group.fields[j], uint64(1)<<j
		if here&bit != 0 {
			d.fault(name, d.key(f), "is there twice: the first is at line "+strconv.Itoa(lineOf(n, f.key)))
			continue
		}
		here |= bit
		if fill.seen&bit != 0 {
			continue
		}
		fill.seen |= bit
		d.mark(d.key(f), value)
		f.read(d, value, f.value(fill.v), f)
	}
	for _, m := range merged {
		d.merge(m, fill)
	}
}

// merge reads what a merge key names: a mapping, or a list of them.
func (d *decoder) merge(n *yaml.Node, fill *filling) {
	sources := []*yaml.Node{n}
	if list := target(n); list.Kind == yaml.SequenceNode {
		sources = list.Content
	}
	for _, source := range sources {
		m := target(source)
		if m.Kind != yaml.MappingNode {
			d.fault(source, fill.key, "<< takes keys and values (like <<: *name)")
			continue
		}
		d.pairs(m, fill)
	}
}

func (d *decoder) unknown(name *yaml.Node, fill *filling) {
	if name.Kind != yaml.ScalarNode {
		d.fault(name, fill.key, shape(name)+" where a key is wanted")
		return
	}
	if len(*d.faults) >= maxFaults {
		d.files.dropped[d.file]++ // not worth the search
		return
	}
	if _, misplaced := root.byKey[name.Value]; misplaced && fill.group == includedGroup {
		d.fault(name, fill.key, quote(name.Value)+" is for the main file: an included file holds listeners only")
		return
	}
	known := make([]string, len(fill.group.fields))
	for i := range known {
		known[i] = fill.group.fields[i].key
	}
	d.fault(name, fill.key, "unknown key "+quote(name.Value)+DidYouMean(name.Value, known))
}

// lineOf returns the line of the first key called name.
func lineOf(n *yaml.Node, name string) int {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i].Line
		}
	}
	return n.Line
}

// readGroup reads a mapping that always is there.
func (d *decoder) readGroup(n *yaml.Node, v reflect.Value, f *field) {
	d.mapping(n, v, f.group, d.key(f))
	d.check(n, v, d.key(f))
}

// readOptional reads a mapping whose absence has a meaning.
func (d *decoder) readOptional(n *yaml.Node, v reflect.Value, f *field) {
	p := reflect.New(v.Type().Elem())
	p.Elem().Set(f.group.proto)
	v.Set(p)
	d.mapping(n, p.Elem(), f.group, d.key(f))
	d.check(n, p.Elem(), d.key(f))
}

// readGroups reads a list of mappings.
func (d *decoder) readGroups(n *yaml.Node, v reflect.Value, f *field) {
	entries, ok := d.sequence(n, d.key(f))
	if !ok {
		return
	}
	list := reflect.MakeSlice(v.Type(), len(entries), len(entries))
	base := d.base
	for i, entry := range entries {
		key := base + f.path + "[" + strconv.Itoa(i) + "]"
		list.Index(i).Set(f.group.proto)
		d.mark(key, entry)
		d.base = key + "."
		d.mapping(entry, list.Index(i), f.group, key)
		d.check(entry, list.Index(i), key)
	}
	d.base = base
	v.Set(list)
}

func (d *decoder) check(n *yaml.Node, v reflect.Value, key string) {
	if target(n).Kind != yaml.MappingNode {
		return
	}
	if c, ok := v.Addr().Interface().(checker); ok {
		c.check(d, target(n), key)
	}
}

// readList reads a list of scalars, or, where f says so, its only entry.
func (d *decoder) readList(n *yaml.Node, v reflect.Value, f *field) {
	n = target(n)
	var entries []*yaml.Node
	if f.lone && n.Kind == yaml.ScalarNode {
		entries = []*yaml.Node{n}
	} else if list, ok := d.sequence(n, d.key(f)); ok {
		entries = list
	} else {
		return
	}
	if f.lone && len(entries) == 0 {
		d.fault(n, d.key(f), "is an empty list: nothing would match it")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(entries), len(entries))
	for i, entry := range entries {
		key := d.key(f)
		if n.Kind == yaml.SequenceNode {
			key = d.elem(f, i)
			d.mark(key, entry)
		}
		d.scalar(entry, list.Index(i), f, key)
	}
	v.Set(list)
}

// elem returns the key of a list's entry i.
func (d *decoder) elem(f *field, i int) string {
	if i < len(f.elems) && d.base == "" {
		return f.elems[i]
	}
	return d.key(f) + "[" + strconv.Itoa(i) + "]"
}

func (d *decoder) readScalar(n *yaml.Node, v reflect.Value, f *field) {
	d.scalar(n, v, f, d.key(f))
}

// scalar reads n into v as f's kind says.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, f *field, key string) {
	text, ok := d.text(n, key, f.kind.want, f.kind.tags)
	if !ok {
		return
	}
	to := v
	if v.Kind() == reflect.Pointer {
		to = reflect.New(v.Type().Elem()).Elem()
		v.Set(to.Addr())
	}
	if wrong := f.kind.set(d, to, text, f); wrong != "" {
		subject := "the value"
		if !f.secret {
			subject = quote(target(n).Value)
		}
		d.fault(n, key, subject+" "+wrong)
	}
}

// text returns a scalar's text with ${VAR} replaced. want and tags are as in kind. What a variable held is not checked for
// its YAML type, and never shown: it may be a secret in the wrong place.
func (d *decoder) text(n *yaml.Node, key, want string, tags []string) (string, bool) {
	at := n
	n = target(n)
	switch {
	case n.Kind != yaml.ScalarNode:
		d.fault(at, key, shape(n)+" where "+want+" is wanted")
		return "", false
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(at, key, "has the tag "+quote(n.Tag)+": leave it out")
		return "", false
	case n.Tag == "!!null":
		d.fault(at, key, `has no value: write one, "" for nothing, or leave the key out`)
		return "", false
	}
	text := n.Value
	if d.main && strings.IndexByte(text, '$') >= 0 {
		expanded, wrong := expand(text)
		if wrong != "" {
			d.fault(at, key, wrong)
			return "", false
		}
		if expanded != text {
			d.markVariable(key)
			return d.printable(at, key, expanded)
		}
	}
	if tags == nil {
		if n.Tag != "!!str" {
			d.fault(at, key, quote(text)+" is read as "+tagNames[n.Tag]+", and "+want+" is wanted: put it in quotes")
			return "", false
		}
	} else if !slices.Contains(tags, n.Tag) {
		wrong := " is not "
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			wrong = " in quotes is text, not "
		}
		d.fault(at, key, quote(text)+wrong+want)
		return "", false
	}
	return d.printable(at, key, text)
}

// tagNames says what YAML takes an unquoted text for.
var tagNames = map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!timestamp": "a date"}

func (d *decoder) printable(n *yaml.Node, key, text string) (string, bool) {
	if control(text) {
		d.fault(n, key, "holds a control character, like a tab or the end of a line")
		return "", false
	}
	return text, true
}

// sequence returns the entries of a list.
func (d *decoder) sequence(n *yaml.Node, key string) ([]*yaml.Node, bool) {
	at := n
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		d.fault(at, key, shape(n)+" where a list is wanted (like [a, b])")
		return nil, false
	}
	return n.Content, true
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// shape names what n is, to somebody who wrote something else than was wanted.
func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return quote(n.Value)
}
