package main

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestA_hash_is_that_of_the_first_line_without_its_end(t *testing.T) {
	for input, password := range map[string]string{
		"hunter2\nmore\n":              "hunter2",
		"hunter2\r\nmore":              "hunter2",
		"hunter2":                      "hunter2",
		" two words \t\n":              " two words \t",
		"naïve\n":                      "naïve",
		strings.Repeat("x", 72) + "\n": strings.Repeat("x", 72),
	} {
		var out, errs bytes.Buffer
		p := &program{stdin: strings.NewReader(input), stdout: &out, stderr: &errs}
		if status := p.dispatch([]string{"passwd", "-u", "ann", "--cost", "4"}); status != exitDone || errs.Len() > 0 {
			t.Errorf("%q: exit status %d, stderr %q", input, status, errs.String())
			continue
		}
		hash, ok := strings.CutPrefix(strings.TrimSuffix(out.String(), "\n"), "ann:")
		if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); !ok || err != nil {
			t.Errorf("%q: printed %q, %v", input, out.String(), err)
		}
	}
}
