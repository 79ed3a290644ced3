package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzRead reads whatever comes: it must not panic, and every fault must have its place in the file.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{"testdata/faults/*/*.yaml", reference, "../../lsmtpd.yaml"} {
		paths, err := filepath.Glob(seed)
		if err != nil || len(paths) == 0 {
			f.Fatal(paths, err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(content)
		}
	}
	for _, seed := range []string{
		"a: [" + strings.Repeat("[", 9000), strings.Repeat("{a: ", 9000), "%YAML 2.0\n---\na", "\ufeffa: b", "a: !!binary x", "&a [*a]",
		"<<: &a {<<: *a}", "amqp: {topology: {queues: [{arguments: " + strings.Repeat("{a: ", 100) + "b}]}}", "a: b\n\x00", "a: \xff", "? ",
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		if strings.Contains(string(content), "/dev") || strings.Contains(string(content), "include") || strings.Contains(string(content), "_file") {
			return // what it names is not the fuzzer's
		}
		path := filepath.Join(dir, "lsmtpd.yaml")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path)
		if err == nil {
			if changes := Diff(c, c); changes != nil {
				t.Fatalf("it differs from itself: %v", changes)
			}
			return
		}
		faults, ok := err.(Faults)
		if !ok || len(faults) == 0 {
			t.Fatalf("%T %v", err, err)
		}
		lines := 1
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // as YAML has it
			lines += strings.Count(string(content), end)
		}
		for _, f := range faults[:min(len(faults), maxFaults)] {
			if f.Place.File != path || f.Place.Line < 1 || f.Place.Line > lines || f.Place.Col < 1 || f.Message == "" {
				t.Fatalf("%+v in %d lines of %q", f, lines, content)
			}
		}
	})
}
