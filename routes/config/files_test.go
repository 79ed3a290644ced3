package config

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestA_directory_of_a_pattern_that_cannot_be_read_is_a_fault_and_one_that_is_missing_is_empty(t *testing.T) {
	write(t, map[string]string{"lsmtpd.yaml": "include: [tenants.d/*.yaml, nowhere/*/x.yaml, a/*/x.yaml]\n" + smallest, "a/file": ""})
	if err := os.Symlink("tenants.d", "tenants.d"); err != nil { // nobody, not even root, can read what leads to itself
		t.Fatal(err)
	}
	_, err := Read("lsmtpd.yaml")
	if err == nil || err.Error() != "lsmtpd.yaml:1:11: include[0]: tenants.d cannot be read: too many levels of symbolic links" {
		t.Errorf("error %v", err)
	}
	if err := os.Remove("tenants.d"); err != nil {
		t.Fatal(err)
	}
	if c, err := Read("lsmtpd.yaml"); err != nil || len(c.Listeners) != 1 {
		t.Errorf("%v, listeners %v", err, c.Listeners)
	}
}

func TestThe_digest_is_of_what_could_not_be_read_too(t *testing.T) {
	write(t, map[string]string{"lsmtpd.yaml": "include: [t/*.yaml]\ninclude_errors: keep\n" + smallest, "t/a": ""})
	digests := map[string]string{}
	look := func(state string) {
		c, _ := Read("lsmtpd.yaml")
		for other, d := range digests {
			if d == c.Digest {
				t.Errorf("%s and %s have the same digest", state, other)
			}
		}
		digests[state] = c.Digest
	}
	look("without")
	if err := os.Symlink("nowhere", "t/b.yaml"); err != nil {
		t.Fatal(err)
	}
	look("a link to nowhere")
	if err := os.Remove("t/b.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("t/b.yaml", 0o700); err != nil {
		t.Fatal(err)
	}
	look("a directory")
	if c, _ := Read("missing.yaml"); c.Digest != "" {
		t.Errorf("of nothing: %s", c.Digest)
	}
}

func TestA_file_that_somebody_has_open_for_writing_looks_torn_until_it_rests(t *testing.T) {
	write(t, map[string]string{"lsmtpd.yaml": smallest})
	f, err := os.OpenFile("lsmtpd.yaml", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	torn := func() string {
		c, err := Read("lsmtpd.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return c.Sources.Torn()
	}
	if why := torn(); !strings.HasSuffix(why, "is being written") {
		t.Errorf("open for writing: %q", why)
	}
	if err := os.Chtimes("lsmtpd.yaml", time.Time{}, time.Now().Add(-2*restTime)); err != nil {
		t.Fatal(err)
	}
	if why := torn(); why != "" {
		t.Errorf("open for writing, and not written to for long: %q", why)
	}
	if err := os.Truncate("lsmtpd.yaml", int64(len(smallest)-1)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if why := torn(); !strings.HasSuffix(why, "does not end in a newline") {
		t.Errorf("without a newline: %q", why)
	}
	if err := os.Chtimes("lsmtpd.yaml", time.Time{}, time.Now().Add(-2*restTime)); err != nil {
		t.Fatal(err)
	}
	if why := torn(); why != "" {
		t.Errorf("without a newline, and not written to for long: %q", why)
	}
}

func TestWhat_cannot_be_read_for_a_cause_that_may_pass_is_told_apart(t *testing.T) {
	// The kernel answers EIO to whoever reads the first page of its own memory.
	write(t, map[string]string{"lsmtpd.yaml": "amqp: {password_file: /proc/self/mem}\n" + smallest})
	if c, err := Read("lsmtpd.yaml"); err == nil || !c.Sources.Passing() {
		t.Errorf("%v, passing %v", err, c.Sources.Passing())
	}
	write(t, map[string]string{"lsmtpd.yaml": "amqp: {password_file: missing}\n" + smallest})
	if c, err := Read("lsmtpd.yaml"); err == nil || c.Sources.Passing() {
		t.Errorf("%v, passing %v", err, c.Sources.Passing())
	}
}
