package main

import (
	"bufio"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestWide_letters_take_two_columns_and_marks_none(t *testing.T) {
	for s, want := range map[string]int{
		"": 0, "ann": 3, "ünï": 3, "u\u0308": 1, "日本語": 6, "ｱ": 1, "Ａ": 2, "한글": 4, "\u1112\u1161\u11ab": 2, "…": 1, "📧": 2,
	} {
		if got := displayWidth(s); got != want {
			t.Errorf("%q takes %d columns, want %d", s, got, want)
		}
	}
	for _, test := range []struct {
		got, want string
	}{
		{cutEnd("日本語日本語", 7), "日本語…"},
		{cutEnd("日本語日本語", 6), "日本…"},
		{cutEnd("u\u0308u\u0308u\u0308", 2), "u\u0308…"},
		{cutMiddle("日本語日本語@例.example", 12), "日本…xample"},
		{cutMiddle("abc日本", 7), "abc日本"},
		{cutMiddle("abcdef日本", 6), "ab…本"},
	} {
		if test.got != test.want {
			t.Errorf("%s, want %s", test.got, test.want)
		}
	}
}

func TestWhat_is_cut_fits_whatever_its_letters_are(t *testing.T) {
	letters := rapid.StringOf(rapid.OneOf(rapid.RuneFrom(nil, unicode.Latin, unicode.Han, unicode.Mn, unicode.Hangul), rapid.SampledFrom([]rune(" @.📧"))))
	rapid.Check(t, func(r *rapid.T) {
		s, n := letters.Draw(r, "text"), rapid.IntRange(1, 30).Draw(r, "columns")
		for _, got := range []string{cutEnd(s, n), cutMiddle(s, n)} {
			if displayWidth(got) > n || !utf8.ValidString(got) {
				r.Fatalf("%q in %d columns is %q, of %d", s, n, got, displayWidth(got))
			}
		}
		room := n + 4
		for line := range strings.Lines(wrapped(s, room)) {
			if displayWidth(strings.TrimSuffix(line, "\n")) > room {
				r.Fatalf("%q in lines of %d: %q", s, room, line)
			}
		}
	})
}

func TestThe_columns_of_a_pipe_stay_in_line_however_long_a_name_is(t *testing.T) {
	var b strings.Builder
	out := bufio.NewWriter(&b)
	rows := &table{out: out, columns: []column{{title: "FROM", cut: cutMiddle}, {title: "TO"}}}
	for _, from := range []string{"a", strings.Repeat("日本", 30), strings.Repeat("x", 90)} {
		if err := rows.add([]string{from, "|"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.flush(); err != nil {
		t.Fatal(err)
	}
	out.Flush()
	for line := range strings.Lines(b.String()) {
		before, _, found := strings.Cut(line, "|")
		if at := displayWidth(before); found && at != 122 {
			t.Errorf("the second column begins at %d: %s", at, line)
		}
	}
}
