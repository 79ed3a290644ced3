package address

import (
	"errors"
	"strings"
	"testing"
)

func TestU_labels_become_A_labels(t *testing.T) {
	for text, want := range map[string]string{
		"bücher.example":        "xn--bcher-kva.example",
		"BÜCHER.Example":        "xn--bcher-kva.example",
		"bu\u0308cher.example":  "xn--bcher-kva.example",
		"straße.de":             "xn--strae-oqa.de",
		"例え。テスト":                "xn--r8jz45g.xn--zckzah",
		"ｅｘａｍｐｌｅ.com":           "example.com",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
		"XN--BCHER-KVA.example": "xn--bcher-kva.example",
	} {
		if got, err := ParseDomain(text); err != nil || got != want {
			t.Errorf("ParseDomain(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestA_domain_that_has_no_A_labels_is_refused(t *testing.T) {
	for text, want := range map[string]error{
		"bü cher.example":              ErrDomain,
		"bü_cher.example":              ErrDomain,
		"bü..example":                  ErrDomain,
		"-bü.example":                  ErrDomain,
		"bü\u200fcher.example":         ErrDomain,
		strings.Repeat("ü", 64) + ".x": ErrDomain,
		"\xff.example":                 ErrUTF8,
	} {
		if got, err := ParseDomain(text); !errors.Is(err, want) {
			t.Errorf("ParseDomain(%q) = %q, %v, want %v", text, got, err, want)
		}
	}
}

func TestA_path_that_A_labels_make_too_long_is_refused(t *testing.T) {
	if _, err := Parse("abcdef@" + strings.Repeat("ü.", 31) + "de"); !errors.Is(err, ErrLength) {
		t.Fatalf("Parse gives %v, want %v", err, ErrLength)
	}
}
