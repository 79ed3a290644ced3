package config

import (
	"reflect"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestA_size_is_shown_as_it_can_be_read(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "7": 7, "7B": 7, "500KB": 500_000, "1KiB": 1024, "10MiB": 10 << 20, "2GB": 2e9, "1TiB": 1 << 40, "8191TiB": 8191 << 40,
	} {
		if n, ok := parseSize(text); !ok || n != want {
			t.Errorf("%s is %d, %v, want %d", text, n, ok, want)
		}
	}
	for _, text := range []string{"", "B", "-1", "+1", "1.5MiB", "1 MiB", "1mib", "1M", "9999999999TiB", "0x10", "1_000"} {
		if n, ok := parseSize(text); ok {
			t.Errorf("%q is %d", text, n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n")
		if again, ok := parseSize(showSize(reflect.ValueOf(n))); !ok || again != n {
			t.Fatalf("%d is shown as %s", n, showSize(reflect.ValueOf(n)))
		}
	})
}

func TestA_duration_is_shown_as_it_can_be_read(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		if again, ok := parseDuration(showDuration(reflect.ValueOf(d))); !ok || again != int64(d) {
			t.Fatalf("%d is shown as %s", d, showDuration(reflect.ValueOf(d)))
		}
	})
}

func TestThe_nearest_word_is_offered_for_a_typo(t *testing.T) {
	words := []string{"size_limit", "timeout", "tls", "name", "exchange", "max_recipients", "routes"}
	for typo, want := range map[string]string{
		"sizelimit": "size_limit", "size-limit": "size_limit", "SizeLimit": "size_limit", "szie_limit": "size_limit",
		"timeouts": "timeout", "tmeout": "timeout", "nmae": "name", "exhcange": "exchange", "tsl": "tls", "route": "routes",
		"maxrecipient": "max_recipients", "foo": "", "completely_different": "", "": "",
	} {
		if want != "" {
			want = " (did you mean " + want + "?)"
		}
		if got := DidYouMean(typo, words); got != want {
			t.Errorf("for %q it offers %q, want %q", typo, got, want)
		}
	}
}

func TestA_long_value_is_cut_in_a_message(t *testing.T) {
	long := ""
	for len(long) < 70 {
		long += "ü"
	}
	if got, want := quote("x"+long), strconv.Quote(("x" + long)[:59])+"…"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestA_dollar_stands_for_itself_where_no_variable_begins(t *testing.T) {
	t.Setenv("LSMTPD_TEST_X", "$${y}")
	t.Setenv("LSMTPD_TEST_EMPTY", "")
	for text, want := range map[string]string{
		"$2y$10$abc": "$2y$10$abc", "a$": "a$", "$$": "$", "$$$$": "$$", "$${x}": "${x}", "${LSMTPD_TEST_X}": "$${y}",
		"<${LSMTPD_TEST_EMPTY}>": "<>", "$${${LSMTPD_TEST_X}}": "${$${y}}", "$LSMTPD_TEST_X": "$LSMTPD_TEST_X",
	} {
		if got, wrong := expand(text); got != want || wrong != "" {
			t.Errorf("%q becomes %q, %q, want %q", text, got, wrong, want)
		}
	}
	for _, text := range []string{"${", "${}", "${A", "${1}", "${A B}", "${LSMTPD_TEST_UNSET}"} {
		if got, wrong := expand(text); wrong == "" {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}
