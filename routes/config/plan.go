package config

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// field is one key of a mapping: what the tags of a struct's field say, worked out once.
type field struct {
	key         string
	path        string // from the carrier of its marks, like "match.recipient"; inside a list from the entry
	index       []int
	effect, doc string
	standard    string   // the text of the default
	one         []string // the words that are allowed
	least, most int64    // bounds, where bounded
	bounds      string   // as written in the tag; "" is unbounded
	zero        bool     // 0 is allowed below least
	own, need   bool
	lone        bool
	secret      bool
	kept        bool // listeners, routes, defaults: carriers

	read  func(d *decoder, n *yaml.Node, v reflect.Value, f *field)
	kind  kind     // of a scalar, or of a list's entries
	group *group   // of a mapping, or of a list's entries
	elems []string // path[0], path[1] …: the marks of a list's first entries
}

// group is the keys of one mapping.
type group struct {
	fields []field
	byKey  map[string]int
	proto  reflect.Value // defaults filled in
}

// The groups that files, listeners and routes are. The others hang below them.
var root, includedGroup, listenerGroup, routeGroup *group

func init() {
	root = groupOf(reflect.TypeFor[Config](), "")
	includedGroup = groupOf(reflect.TypeFor[includedFile](), "")
	listenerGroup = groupOf(reflect.TypeFor[Listener](), "")
	routeGroup = groupOf(reflect.TypeFor[Route](), "")
}

// groupOf works out the keys of t; prefix is where t stands below its carrier.
func groupOf(t reflect.Type, prefix string) *group {
	g := &group{byKey: map[string]int{}, proto: reflect.New(t).Elem()}
	for _, s := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(s.Tag.Get("yaml"), ",")
		if key == "" {
			continue
		}
		f := fieldOf(s, key, prefix+key)
		f.setDefault(g.proto.FieldByIndex(f.index))
		g.byKey[key] = len(g.fields)
		g.fields = append(g.fields, f)
	}
	return g
}

func fieldOf(s reflect.StructField, key, path string) field {
	tag := s.Tag.Get
	f := field{
		key: key, path: path, index: s.Index,
		effect: tag("effect"), doc: tag("doc"), standard: tag("default"), bounds: tag("range"),
		zero: tag("zero") != "", own: tag("own") != "", need: tag("need") != "", lone: tag("lone") != "", secret: tag("secret") != "",
	}
	t, name := s.Type, tag("is")
	if words := tag("one"); words != "" {
		f.one, name = strings.Split(words, "|"), "choice"
	}
	switch {
	case t == reflect.TypeFor[[]Listener]():
		f.read, f.kept = (*decoder).keepListeners, true
	case t == reflect.TypeFor[Listener]():
		f.read, f.kept = (*decoder).keepDefaults, true
	case t == reflect.TypeFor[[]Route]():
		f.read, f.kept = (*decoder).readRoutes, true
	case t == reflect.TypeFor[map[string]any]():
		f.read = (*decoder).readArguments
	case t == reflect.TypeFor[map[string]string]():
		f.read = (*decoder).readHeaders
	case isGroup(t):
		f.read, f.group = (*decoder).readGroup, groupOf(t, path+".")
	case t.Kind() == reflect.Pointer && isGroup(t.Elem()):
		f.read, f.group = (*decoder).readOptional, groupOf(t.Elem(), path+".")
	case t.Kind() == reflect.Slice && isGroup(t.Elem()):
		f.read, f.group = (*decoder).readGroups, groupOf(t.Elem(), "")
	case t.Kind() == reflect.Slice:
		f.read, f.kind = (*decoder).readList, kindOf(name, t.Elem())
		for i := range 8 {
			f.elems = append(f.elems, path+"["+strconv.Itoa(i)+"]")
		}
	default:
		f.read, f.kind = (*decoder).readScalar, kindOf(name, t)
	}
	f.setBounds()
	return f
}

// isGroup tells a struct that is a mapping in the file.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Quota]() && t != reflect.TypeFor[netip.Prefix]()
}

// kindOf returns the kind called name, or the one that goes with t.
func kindOf(name string, t reflect.Type) kind {
	if name == "" {
		name = map[reflect.Type]string{
			reflect.TypeFor[string]():        "text",
			reflect.TypeFor[bool]():          "flag",
			reflect.TypeFor[int]():           "count",
			reflect.TypeFor[time.Duration](): "duration",
			reflect.TypeFor[Quota]():         "quota",
			reflect.TypeFor[netip.Prefix]():  "network",
		}[t]
	}
	k, known := kinds[name]
	if !known {
		panic("config: no kind " + name + " for " + t.String())
	}
	return k
}

// setBounds reads a range like "1s..10m" or "64KiB..".
func (f *field) setBounds() {
	low, high, bounded := strings.Cut(f.bounds, "..")
	if !bounded {
		return
	}
	f.least, f.most = 0, 1<<63-1
	for _, b := range []struct {
		text string
		to   *int64
	}{{low, &f.least}, {high, &f.most}} {
		if b.text == "" {
			continue
		}
		n, ok := f.kind.number(b.text)
		if !ok {
			panic("config: bad range of " + f.path)
		}
		*b.to = n
	}
}

// setDefault gives v what a missing key means.
func (f *field) setDefault(v reflect.Value) {
	if f.group != nil && v.Kind() == reflect.Struct {
		v.Set(f.group.proto)
	}
	if f.standard == "" {
		return
	}
	if v.Kind() == reflect.Slice {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		v = v.Index(0)
	}
	if wrong := f.kind.set(&decoder{}, v, f.standard, f); wrong != "" {
		panic("config: default of " + f.path + " " + wrong)
	}
}

// value returns f's field of a struct.
func (f *field) value(v reflect.Value) reflect.Value {
	for _, i := range f.index {
		v = v.Field(i)
	}
	return v
}
