package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFlags_stand_before_or_behind_operands(t *testing.T) {
	for _, line := range []string{"-n 3 --raw a b", "a -n 3 b --raw", "a b -n 3 --raw", "a -n=3 --raw -- b"} {
		f := new(program).flags("x", "")
		n, raw := f.Int("n", 0, ""), f.Bool("raw", false, "")
		operands, err := f.parse(strings.Fields(line), 2)
		if err != nil || *n != 3 || !*raw || !slices.Equal(operands, []string{"a", "b"}) {
			t.Errorf("%s: n %d, raw %v, operands %q, %v", line, *n, *raw, operands, err)
		}
	}
}

func TestFlags_behind_two_dashes_are_operands(t *testing.T) {
	f := new(program).flags("x", "")
	raw := f.Bool("raw", false, "")
	operands, err := f.parse([]string{"--", "--raw", "-"}, 2)
	if err != nil || *raw || !slices.Equal(operands, []string{"--raw", "-"}) {
		t.Errorf("raw %v, operands %q, %v", *raw, operands, err)
	}
}

func TestFlags_given_tells_a_default_from_the_same_value_given(t *testing.T) {
	f := new(program).flags("x", "")
	f.String("key", "#", "")
	f.String("bind", "", "")
	if _, err := f.parse([]string{"--key", "#"}, 0); err != nil {
		t.Fatal(err)
	}
	if !f.given("key") || f.given("bind") {
		t.Errorf("key %v, bind %v", f.given("key"), f.given("bind"))
	}
}

func TestFlags_with_a_bad_value_are_told_for_people(t *testing.T) {
	for line, want := range map[string]string{
		"--limit x":                    `--limit "x": not a whole number, or far too large`,
		"--limit 99999999999999999999": `--limit "99999999999999999999": not a whole number, or far too large`,
		`--limit a"b:c`:                `--limit "a\"b:c": not a whole number, or far too large`,
		"--wait soon":                  `--wait "soon": not a duration, like 30s or 5m`,
		"--raw=perhaps":                `--raw "perhaps": neither true nor false`,
		"--limit":                      `--limit needs a value`,
		"--own x":                      `--own "x": a reason of its own`,
	} {
		var stderr bytes.Buffer
		f := (&program{stderr: &stderr}).flags("x", "")
		f.Int("limit", 0, "")
		f.Duration("wait", 0, "")
		f.Bool("raw", false, "")
		f.Func("own", "", func(string) error { return errors.New("a reason of its own") })
		_, err := f.parse(strings.Fields(line), 0)
		if err == nil {
			t.Fatalf("%s is taken", line)
		}
		f.refuse(err)
		if got, _, _ := strings.Cut(stderr.String(), "\n"); got != "lsmtpd x: "+want {
			t.Errorf("%s: %s", line, got)
		}
	}
}

func TestWords_are_separated_by_commas_outside_quotes(t *testing.T) {
	tests := []struct {
		values []string
		want   []string
	}{
		{[]string{"a@x"}, []string{"a@x"}},
		{[]string{"a@x,b@x", "c@x"}, []string{"a@x", "b@x", "c@x"}},
		{[]string{"a@x, b@x"}, []string{"a@x", "b@x"}},
		{[]string{`"a,b"@x,c@x`}, []string{`"a,b"@x`, "c@x"}},
		{[]string{`"a\",b"@x`}, []string{`"a\",b"@x`}},
		{[]string{"a@x,"}, []string{"a@x", ""}},
	}
	for _, test := range tests {
		var w words
		for _, v := range test.values {
			if err := w.Set(v); err != nil {
				t.Error(err)
			}
		}
		if !slices.Equal(w, test.want) {
			t.Errorf("%q: %q, want %q", test.values, w, test.want)
		}
	}
}

func TestEvery_command_explains_itself(t *testing.T) {
	for _, c := range commands {
		var out, err bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &err}
		if status := p.dispatch([]string{c.name, "--help"}); status != exitDone || err.Len() > 0 {
			t.Errorf("%s: exit status %d, stderr %q", c.name, status, err.String())
		}
		text := out.String()
		for _, want := range []string{"usage: lsmtpd " + c.name, "\nexample", "\n  lsmtpd " + c.name} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in its help", c.name, want)
			}
		}
		if strings.Contains(text, "{flags}") {
			t.Errorf("%s: the list of flags is missing from its help", c.name)
		}
		for line := range strings.Lines(text) {
			if len(line) > 101 {
				t.Errorf("%s: a line of %d columns: %s", c.name, len(line), line)
			}
		}
	}
}
