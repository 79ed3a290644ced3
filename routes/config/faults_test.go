package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden texts anew")

// TestEvery_fault_is_told_with_its_place_and_its_remedy holds what Read says of the lsmtpd.yaml in each directory of
// testdata/faults against the file "want" beside it.
func TestEvery_fault_is_told_with_its_place_and_its_remedy(t *testing.T) {
	dirs, err := os.ReadDir("testdata/faults")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(dir.Name(), func(t *testing.T) {
			t.Setenv("LSMTPD_TEST_SECRET", "hush-hush")
			t.Chdir(filepath.Join("testdata/faults", dir.Name()))
			c, err := Read("lsmtpd.yaml")
			if err == nil || c == nil || len(c.Sources.Paths) == 0 {
				t.Fatalf("Read gives %+v, %v", c, err)
			}
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile("want", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile("want")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for _, secret := range []string{"s3cret", "hush-hush", "hunter2"} {
				if strings.Contains(got, secret) {
					t.Errorf("the faults show %s", secret)
				}
			}
		})
	}
}
