package routes

import (
	"testing"

	"lsmtpd/routes/address"
)

func TestA_pattern_alone_takes_what_it_takes_in_a_route(t *testing.T) {
	tests := []struct {
		pattern, address string
		want             bool
	}{
		{"ann@example.com", "ANN@example.com", true},
		{"ann@example.com", "ann@example.net", false},
		{"example.com", "anybody@example.com", true},
		{"example.com", "anybody@sub.example.com", false},
		{".example.com", "anybody@sub.example.com", true},
		{"invoices@*", "invoices@b.example", true},
		{"*@b.example", "<>", false},
		{"<>", "<>", true},
		{"<>", "ann@example.com", false},
	}
	for _, test := range tests {
		p, err := ParsePattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		var a address.Address
		if test.address != "<>" {
			if a, err = address.Parse(test.address); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.Match(a); got != test.want {
			t.Errorf("%s on %s: %v", test.pattern, test.address, got)
		}
	}
}

func TestA_pattern_that_is_none_is_told_what_one_looks_like(t *testing.T) {
	const want = `"a b" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com)`
	if _, err := ParsePattern("a b"); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}
