package routes

import (
	"errors"
	"slices"
	"strings"

	"lsmtpd/routes/config"
)

// Load reads the configuration at path and compiles it. Its error is config.Faults, whatever include_errors says.
func Load(path string) (*Table, error) {
	t, _, err := read(path, nil)
	return t, err
}

// Read is Load for who runs what it reads. Where the file says include_errors: keep, an included file that is broken is an
// error no more: its listeners in running, which is in force and nil at the start, stand in for what it says, and Table.Broken
// tells why. The Config is there beside an error, with its sources.
func Read(path string, running *config.Config) (*Table, *config.Config, error) {
	var broken config.Faults
	instead := map[string][]config.Listener{}
	for {
		t, c, err := read(path, instead)
		faults, faulty := errors.AsType[config.Faults](err)
		if !faulty {
			t.Broken = c.Sorted(broken)
			return t, c, nil
		}
		broken = append(broken, faults...)
		if c.IncludeErrors != "keep" || !keep(c.Path, faults, running, instead) {
			return nil, c, c.Sorted(broken)
		}
	}
}

// keep enters into instead what running has for the files that faults blame. It returns false where one is to be blamed on the
// file at path, or on what is kept already.
func keep(path string, faults config.Faults, running *config.Config, instead map[string][]config.Listener) bool {
	blamed := map[string]bool{}
	for _, f := range faults {
		files := slices.DeleteFunc(f.Files(), func(file string) bool {
			_, kept := instead[file]
			return kept || file == path
		})
		if len(files) == 0 {
			return false
		}
		blamed[files[0]] = true
	}
	for file := range blamed {
		instead[file] = nil
		if running != nil {
			instead[file] = running.Included(file)
		}
	}
	return true
}

// read reads and compiles. The error, config.Faults, tells what is wrong in the files, and what is wrong in the listeners that
// they give without a fault.
func read(path string, instead map[string][]config.Listener) (*Table, *config.Config, error) {
	c, err := config.ReadInstead(path, instead)
	t, compileErr := Compile(c)
	if err == nil {
		return t, c, compileErr
	}
	var found, compiled config.Faults
	if errors.As(err, &found) && errors.As(compileErr, &compiled) {
		all := slices.Clone(found)
		for _, f := range compiled {
			if !concerns(found, f) {
				all = append(all, f)
			}
		}
		err = c.Sorted(all)
	}
	return nil, c, err
}

// concerns tells whether one of faults may be why f is there: one of f's own route, or of what the listener, or defaults, says for
// all of its routes. An unknown key may be the one that f misses, but not why a key that is there is wrong.
func concerns(faults config.Faults, f config.Fault) bool {
	listener, rest, _ := strings.Cut(f.Key, ".")
	route, ofKey, _ := strings.Cut(rest, ".")
	missing := rest == "" || ofKey == "" && strings.HasPrefix(route, "routes[")
	for _, other := range faults {
		owner, below, _ := strings.Cut(other.Key, ".")
		if owner != "defaults" && (owner != listener || other.Place.File != f.Place.File) {
			continue
		}
		switch key, inside, _ := strings.Cut(below, "."); key {
		case "":
			if missing {
				return true
			}
		case "exchange", "routing_key", "format", "headers":
			return true
		case route:
			if inside != "" || missing {
				return true
			}
		}
	}
	return false
}
