package main

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPrintable_shows_what_a_terminal_would_obey(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain text stays", "Grüße, 世界 & «quotes» \\ '\"", "Grüße, 世界 & «quotes» \\ '\""},
		{"tabs and line feeds stay", "a\tb\n", "a\tb\n"},
		{"an escape sequence", "\x1b[2J\x1b]0;title\a", `\x1b[2J\x1b]0;title\a`},
		{"a carriage return that would overwrite the line", "250 ok\rX", `250 ok\rX`},
		{"an eight-bit control sequence", "\u009b31m", `\u009b31m`},
		{"DEL and NUL", "\x7f\x00", `\x7f\x00`},
		{"octets that are not UTF-8", "caf\xe9 \xff", `caf\xe9 \xff`},
		{"a right-to-left override", "\u202etxt.exe", `\u202etxt.exe`},
		{"a real replacement character", "\ufffd", "\ufffd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := printable(test.in); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestPrintable_leaves_nothing_to_obey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "octets")) + rapid.String().Draw(t, "text")
		out := strings.ReplaceAll(printable(in), "\ufffd", "")
		if strings.ContainsFunc(out, obeyed) {
			t.Fatalf("%q became %q", in, out)
		}
		if again := printable(out); again != out {
			t.Fatalf("%q became %q the second time", out, again)
		}
	})
}

func TestPrintableLine_is_one_line(t *testing.T) {
	if got := printableLine("a\nb\r\n"); got != `a\nb\r\n` {
		t.Errorf("%q", got)
	}
}
