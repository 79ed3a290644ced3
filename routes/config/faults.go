package config

import (
	"slices"
	"strconv"
	"strings"
)

// Place is where something stands in a file: line and column count from 1, 0 is unknown.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"col"`
}

// String writes p like "lsmtpd.yaml:14:7", without what is unknown.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	s := p.File + ":" + strconv.Itoa(p.Line)
	if p.Col == 0 {
		return s
	}
	return s + ":" + strconv.Itoa(p.Col)
}

// Fault is one thing that is wrong, or odd, in a configuration file.
type Fault struct {
	Place   Place
	Key     string // like listeners[1].size_limit; "" for a fault of the whole file
	Message string // what is wrong and what to do

	included string // the file that is at fault, where Place is the one that names it
	beside   string // the other file, where two do not go together
	listener string // the name of the listener that it is in; "" where it is in none, or that has none
}

// Files returns the files of which one must be mended, the likelier first.
func (f *Fault) Files() []string {
	files := []string{f.Place.File}
	if f.included != "" {
		files[0] = f.included
	}
	if f.beside != "" {
		files = append(files, f.beside)
	}
	return files
}

// String writes f like "lsmtpd.yaml:14:7: listeners[1].size_limit: … [listener inbound]".
func (f Fault) String() string {
	s := f.Place.String() + ": "
	if f.Key != "" {
		s += f.Key + ": "
	}
	s += f.Message
	if f.listener != "" {
		s += " [listener " + f.listener + "]"
	}
	return s
}

// Faults is every fault of a configuration, in the order of their places. It is the error that Read returns.
type Faults []Fault

// Error gives one line a fault, each as Fault.String has it.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}

// sortBy orders f by file, in the order in which files were read, then by line and column. What was found twice in one
// place, through an alias or the defaults, is left once.
func (f Faults) sortBy(files []string) Faults {
	order := make(map[string]int, len(files))
	for i, file := range files {
		if _, known := order[file]; !known {
			order[file] = i
		}
	}
	slices.SortStableFunc(f, func(a, b Fault) int {
		if a.Place.File != b.Place.File {
			if d := order[a.Place.File] - order[b.Place.File]; d != 0 {
				return d
			}
			return strings.Compare(a.Place.File, b.Place.File)
		}
		if d := a.Place.Line - b.Place.Line; d != 0 {
			return d
		}
		return a.Place.Col - b.Place.Col
	})
	return slices.CompactFunc(f, func(a, b Fault) bool { return a.Place == b.Place && a.Message == b.Message })
}

// mark remembers where the value of a key stands.
type mark struct {
	key       string // from its carrier: the Config, a Listener or a Route
	line, col int32
	variable  bool // its text has a ${VAR} in it
}

// marks are the places of one carrier's keys, so that what is found later, by another room, has its place too.
type marks struct {
	file  string
	keys  []mark
	under *marks // the defaults'
}

// at returns the place of key, else of the nearest key above it.
func (m *marks) at(key string) (Place, bool) {
	for ; key != ""; key = key[:max(strings.LastIndexAny(key, ".["), 0)] {
		for layer := m; layer != nil; layer = layer.under {
			for _, k := range layer.keys {
				if k.key == key {
					return Place{layer.file, int(k.line), int(k.col)}, true
				}
			}
		}
	}
	return Place{}, false
}

// own tells whether key itself was written in this carrier.
func (m *marks) own(key string) bool {
	return slices.ContainsFunc(m.keys, func(k mark) bool { return k.key == key })
}

// has tells whether key itself was written in this carrier, or in the defaults.
func (m *marks) has(key string) bool {
	return m != nil && (m.own(key) || m.under.has(key))
}

// variable tells whether the environment gave a part of key's value, or of what is below it; "" is the whole carrier.
func (m *marks) variable(key string) bool {
	if m == nil {
		return false
	}
	for _, k := range m.keys {
		rest, found := strings.CutPrefix(k.key, key)
		if found && k.variable && (key == "" || rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return !m.own(key) && m.under.variable(key)
}
