package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSources_are_every_link_on_the_way_and_every_directory_of_a_pattern(t *testing.T) {
	dir := write(t, map[string]string{
		"v1/lsmtpd.yaml":      "include: [tenants/*/l.yaml]\namqp: {password_file: ../password}\n",
		"password":            "x\n",
		"v1/tenants/a/l.yaml": smallest,
		"v1/tenants/b/other":  "",
	})
	for link, to := range map[string]string{"..data": "v1", "lsmtpd.yaml": "..data/lsmtpd.yaml", "tenants": "v1/tenants"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("v1/lsmtpd.yaml", []byte("include: [tenants/*/l.yaml]\namqp: {password_file: password}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, path := range c.Sources.Paths {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rel)
	}
	want := []string{
		"..data", "..data/lsmtpd.yaml", "lsmtpd.yaml", "password", "tenants", "tenants/a", "tenants/a/l.yaml", "tenants/b",
		"v1/lsmtpd.yaml", "v1/tenants", "v1/tenants/a", "v1/tenants/a/l.yaml", "v1/tenants/b",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSources_show_whatever_changed_after_the_reading(t *testing.T) {
	setup := func(t *testing.T) *Config {
		write(t, map[string]string{
			"lsmtpd.yaml": "include: [t/*.yaml]\n" + smallest,
			"t/a.yaml":    "listeners: []\n",
			"v2":          smallest,
		})
		c, err := Read("lsmtpd.yaml")
		if err != nil || c.Sources.Changed() || c.Sources.Torn() != "" {
			t.Fatalf("%v, changed %v, torn %q", err, c.Sources.Changed(), c.Sources.Torn())
		}
		return c
	}
	for name, change := range map[string]func() error{
		"a write":                         func() error { return os.WriteFile("lsmtpd.yaml", []byte("x"), 0o600) },
		"another file in its place":       func() error { return os.Rename("v2", "lsmtpd.yaml") },
		"the file is gone":                func() error { return os.Remove("t/a.yaml") },
		"a file that a pattern now finds": func() error { return os.WriteFile("t/b.yaml", nil, 0o600) },
		"the mode":                        func() error { return os.Chmod("lsmtpd.yaml", 0o400) },
		"the directory replaced":          func() error { return os.Rename("t", "u") },
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if !c.Sources.Changed() {
				t.Error("not seen")
			}
		})
	}
}

func TestA_missing_file_is_a_source_too(t *testing.T) {
	write(t, map[string]string{"lsmtpd.yaml": "amqp: {password_file: secret}\n" + smallest})
	c, err := Read("lsmtpd.yaml")
	if err == nil || c.Sources.Changed() {
		t.Fatal(err, c.Sources.Changed())
	}
	if err := os.WriteFile("secret", []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !c.Sources.Changed() {
		t.Error("its coming is not seen")
	}
}

func TestHalf_a_write_looks_torn(t *testing.T) {
	for content, want := range map[string]string{
		"":                              "lsmtpd.yaml is empty",
		strings.TrimSpace(smallest):     "lsmtpd.yaml does not end in a newline",
		smallest:                        "",
		smallest + "  # with a comment": "lsmtpd.yaml does not end in a newline",
	} {
		write(t, map[string]string{"lsmtpd.yaml": content})
		c, _ := Read("lsmtpd.yaml")
		if got := c.Sources.Torn(); got != want {
			t.Errorf("%q looks torn because it %q, want %q", content, got, want)
		}
	}
}

func TestThe_digest_is_of_every_file_that_was_read(t *testing.T) {
	files := map[string]string{"lsmtpd.yaml": "include: [b.yaml]\namqp: {password_file: p}\n" + smallest, "b.yaml": "listeners: []\n", "p": "x\n"}
	digest := func() string {
		write(t, files)
		c, _ := Read("lsmtpd.yaml")
		return c.Digest
	}
	before := digest()
	if again := digest(); again != before || len(before) != 64 {
		t.Fatalf("%s, then %s", before, again)
	}
	seen := map[string]bool{before: true}
	for name, content := range map[string]string{"p": "y\n", "b.yaml": "listeners: [ ]\n", "lsmtpd.yaml": files["lsmtpd.yaml"] + "#\n"} {
		files[name] = content
		if d := digest(); seen[d] {
			t.Errorf("a change of %s does not show", name)
		} else {
			seen[d] = true
		}
	}
	files["lsmtpd.yaml"] += "unknown: 1\n"
	if d := digest(); seen[d] {
		t.Error("a fault hides a change")
	}
}
