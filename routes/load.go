package routes

import (
	"errors"
	"slices"
	"strings"

	"lsmtpd/routes/config"
)

// Load reads the configuration at path and compiles it. Its error is config.Faults.
func Load(path string) (*Table, error) {
	t, _, err := Read(path)
	return t, err
}

// Read is Load for who must know what was read even where it is wrong: the Config is there beside an error, with its sources.
// The error, config.Faults, tells what is wrong in the files, and what is wrong in the listeners that they give without a fault.
func Read(path string) (*Table, *config.Config, error) {
	c, err := config.Read(path)
	t, compileErr := Compile(c)
	if err == nil {
		return t, c, compileErr
	}
	var read, compiled config.Faults
	if errors.As(err, &read) && errors.As(compileErr, &compiled) {
		all := slices.Clone(read)
		for _, f := range compiled {
			if !concerns(read, f) {
				all = append(all, f)
			}
		}
		err = c.Sorted(all)
	}
	return nil, c, err
}

// concerns tells whether one of faults may be why f is there: one of f's own route, or of what the listener says for all of
// its routes.
func concerns(faults config.Faults, f config.Fault) bool {
	listener, rest, _ := strings.Cut(f.Key, ".")
	route, _, _ := strings.Cut(rest, ".")
	for _, other := range faults {
		if strings.HasPrefix(other.Key, "defaults") {
			return true
		}
		owner, key, _ := strings.Cut(other.Key, ".")
		if owner != listener || other.Place.File != f.Place.File {
			continue
		}
		switch key, _, _ = strings.Cut(key, "."); key {
		case "", "exchange", "routing_key", "format", "headers", route:
			return true
		}
	}
	return false
}
