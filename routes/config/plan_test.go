package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// eachField calls do for every key of the file.
func eachField(do func(path string, f *field)) {
	var walk func(g *group, path string)
	walk = func(g *group, path string) {
		for i := range g.fields {
			f := &g.fields[i]
			do(path+f.key, f)
			if f.group != nil {
				walk(f.group, path+f.key+".")
			}
		}
	}
	walk(root, "")
	walk(listenerGroup, "listeners.")
	walk(routeGroup, "listeners.routes.")
}

func TestEvery_key_says_when_a_change_is_in_force_and_what_it_is(t *testing.T) {
	count := 0
	eachField(func(path string, f *field) {
		count++
		if f.doc == "" {
			t.Errorf("%s has no doc", path)
		}
		always := f.kept && f.key != "routes" || f.group != nil && f.effect == "" // its keys say it
		if !always && !slices.Contains([]string{"session", "transaction", "live"}, f.effect) {
			t.Errorf("%s has the effect %q: session, transaction or live", path, f.effect)
		}
	})
	if count < 100 {
		t.Errorf("only %d keys were looked at", count)
	}
}

// TestEvery_field_of_the_configuration_is_a_key finds a field that the decoder cannot see.
func TestEvery_field_of_the_configuration_is_a_key(t *testing.T) {
	found := []string{"Path", "Sources", "Digest", "Warnings", "marks", "files", "SocketIsDefault", "Password", "Place", "Key", "Octets", "Percent", "Destination", "Pairs", "ClientCAs", "CAs", "Pair"}
	for _, s := range []any{
		Config{}, Log{}, Admin{}, AMQP{}, AMQPTLS{}, Topology{}, Exchange{}, Queue{}, Binding{}, Spool{}, Limits{}, Listener{},
		Destination{}, Route{}, Match{}, Rate{}, TLS{}, KeyPair{}, Auth{}, User{},
	} {
		for f := range reflect.TypeOf(s).Fields() {
			if f.Tag.Get("yaml") == "" && !slices.Contains(found, f.Name) {
				t.Errorf("%T.%s has no tag: what is its key?", s, f.Name)
			}
		}
	}
}

func TestEvery_pending_key_is_a_key(t *testing.T) {
	known := map[string]bool{}
	eachField(func(path string, _ *field) { known[path] = true })
	for _, key := range pendingKeys {
		if !known[key] {
			t.Errorf("there is no key %s", key)
		}
	}
}

const reference = "../../examples/reference.yaml"

func TestThe_reference_shows_every_key(t *testing.T) {
	content, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	eachField(func(path string, f *field) {
		if !regexp.MustCompile(`(?m)(^|[ #{[])` + f.key + `:( |$)`).Match(content) {
			t.Errorf("%s is not in %s", path, reference)
		}
	})
}

// TestThe_reference_is_read_as_it_stands_and_whole takes the sign from its lines like "#key: value" too.
func TestThe_reference_is_read_as_it_stands_and_whole(t *testing.T) {
	if _, err := Read(reference); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	support(t)
	whole := regexp.MustCompile(`(?m)^( *)#(\w)`).ReplaceAllString(string(content), "$1$2")
	if whole == string(content) {
		t.Error("nothing is commented out: is this test still needed?")
	}
	write(t, map[string]string{"lsmtpd.yaml": whole})
	_, err = Read("lsmtpd.yaml")
	faults, _ := err.(Faults)
	for _, f := range faults {
		if !strings.HasSuffix(f.Message, " does not exist") { // certificates and secrets are the operator's
			t.Error(f)
		}
	}
}

// TestThe_reference_shows_the_real_defaults holds what it says of keys that have a default against that default.
func TestThe_reference_shows_the_real_defaults(t *testing.T) {
	c, err := Read(reference)
	if err != nil {
		t.Fatal(err)
	}
	standard, listener := root.proto.Interface().(Config), listenerGroup.proto.Interface().(Listener)
	check := func(changes []Change, g *group) {
		for _, change := range changes {
			f, below := g, change.Key
			for head, rest, nested := strings.Cut(below, "."); nested; head, rest, nested = strings.Cut(below, ".") {
				f, below = f.fields[f.byKey[head]].group, rest
			}
			if at := f.fields[f.byKey[below]]; at.standard != "" {
				t.Errorf("%s is shown as %s, and its default is %s", change.Key, change.New, change.Old)
			}
		}
	}
	check(diffOf(&standard, c, root), root)
	check(diffOf(&listener, &c.Listeners[0], listenerGroup), listenerGroup)
}
