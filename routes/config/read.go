package config

import (
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
)

// Read reads the file at path and every file it names. Its error is Faults; the Config is then incomplete, but for Path,
// Sources and Digest, which tell when it is worth reading again.
func Read(path string) (*Config, error) { return ReadInstead(path, nil) }

// ReadInstead is Read, with other listeners in place of those that some included files give, by the names that faults call
// them. Those files are read all the same: Sources and Digest are of what they say.
func ReadInstead(path string, instead map[string][]Listener) (*Config, error) {
	files, faults := newFiles(), Faults(nil)
	c := root.proto.Interface().(Config)
	c.Path = path
	d := &decoder{files: files, faults: &faults, file: path, main: true}
	content, err := files.readDocument(path)
	if err != nil {
		d.report(Fault{Place: Place{File: path}, Message: err.Error()})
	} else if n := d.parse(content); n != nil {
		c.marks = d.carry(n, reflect.ValueOf(&c).Elem(), root, "")
		d.readDefaults(&c.Defaults)
		c.Listeners = d.readListeners(nil, &c.Defaults)
		d.include(&c, instead)
		c.complete()
		d.checkWhole(&c)
		d.pending(&c)
	}
	c.Sources, c.Digest, c.files = files.sources(), files.digest(), files.order
	if len(faults) == 0 {
		return &c, nil
	}
	faults = c.Sorted(faults)
	for _, file := range slices.Sorted(maps.Keys(files.dropped)) {
		faults = append(faults, Fault{Place: Place{File: file}, Message: "and " + strconv.Itoa(files.dropped[file]) + " more: mend these first"})
	}
	return &c, faults
}

// relative returns the path that the file at work means by p.
func (d *decoder) relative(p string) string { return from(filepath.Dir(d.file), p) }

// include reads the listeners of every file that c includes, and takes those in instead where there are any.
func (d *decoder) include(c *Config, instead map[string][]Listener) {
	seen := map[string]bool{filepath.Clean(c.Path): true}
	for i, pattern := range c.Include {
		key := "include[" + strconv.Itoa(i) + "]"
		names, err := d.files.glob(filepath.Dir(c.Path), pattern)
		if errors.Is(err, filepath.ErrBadPattern) || pattern == "" {
			d.report(Fault{Place: c.At(key), Key: key, Message: quote(pattern) + " is not a pattern of files (like tenants.d/*.yaml)"})
			continue
		}
		if err != nil {
			d.report(Fault{Place: c.At(key), Key: key, Message: err.Error()})
			continue
		}
		for _, name := range names {
			if name == filepath.Clean(c.Path) {
				d.report(Fault{Place: c.At(key), Key: key, Message: quote(pattern) + " includes this file itself"})
				continue
			}
			if seen[name] {
				continue
			}
			seen[name] = true
			content, err := d.files.readDocument(name)
			if others, given := instead[name]; given {
				c.Listeners = append(c.Listeners, others...)
				continue
			}
			if err != nil {
				d.report(Fault{Place: c.At(key), Key: key, Message: name + " " + err.Error(), included: name})
				continue
			}
			part := &decoder{files: d.files, faults: d.faults, file: name}
			c.Listeners = part.readIncluded(content, c)
		}
	}
}

// includedFile is all that an included file may hold.
type includedFile struct {
	Listeners []Listener `yaml:"listeners" need:"true" doc:"an included file holds listeners"`
}

// readIncluded returns c's listeners with those of an included file behind them.
func (d *decoder) readIncluded(content []byte, c *Config) []Listener {
	n := d.parse(content)
	if n == nil {
		return c.Listeners
	}
	d.mapping(n, reflect.ValueOf(&includedFile{}).Elem(), includedGroup, "")
	return d.readListeners(c.Listeners, &c.Defaults)
}

// complete fills in the defaults that depend on other keys or on the machine.
func (c *Config) complete() {
	c.machineDefaults()
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if l.Hostname == "" {
			l.Hostname = c.Hostname
		}
		if l.Format == "" {
			l.Format = "json"
		}
	}
}
