package address

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestA_mailbox_is_read_into_its_canonical_form(t *testing.T) {
	long := strings.Repeat("l", 128)
	tests := []struct{ name, text, local, domain, canonical string }{
		{"a plain address", "user@example.com", "user", "example.com", ""},
		{"a domain in capitals", "User@Example.COM", "User", "example.com", "User@example.com"},
		{"every sign of an atom", "a!#$%&'*+-/=?^_`{|}~z@h", "a!#$%&'*+-/=?^_`{|}~z", "h", ""},
		{"dots inside", "a.b.c@x.y", "a.b.c", "x.y", ""},
		{"quotes without need", `"user"@example.com`, "user", "example.com", "user@example.com"},
		{"a quoted pair without need", `"\u\s\e\r"@example.com`, "user", "example.com", "user@example.com"},
		{"quotes with need", `"a b"@example.com`, "a b", "example.com", ""},
		{"an @ in quotes", `"a@b"@example.com`, "a@b", "example.com", ""},
		{"a bracket in quotes", `"a>b"@example.com`, "a>b", "example.com", ""},
		{"a quote and a backslash", `"a\"b\\c"@example.com`, `a"b\c`, "example.com", ""},
		{"a trailing dot in quotes", `"a."@example.com`, "a.", "example.com", ""},
		{"an empty quoted string", `""@example.com`, "", "example.com", ""},
		{"UTF-8 in the local part", "jürgen@example.com", "jürgen", "example.com", ""},
		{"UTF-8 in quotes", `"jür gen"@example.com`, "jür gen", "example.com", ""},
		{"a label of digits and hyphens", "a@1.2-3.x--y", "a", "1.2-3.x--y", ""},
		{"an IPv4 literal", "a@[192.0.2.1]", "a", "[192.0.2.1]", ""},
		{"an IPv6 literal", "a@[ipv6:2001:DB8:0:0::1]", "a", "[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"},
		{"an IPv4-mapped literal", "a@[IPv6:::ffff:192.0.2.1]", "a", "[IPv6:::ffff:192.0.2.1]", ""},
		{"a local part of 128 octets", long + "@h", long, "h", ""},
		{"a path of 256 octets", "a@" + strings.Repeat("b.", 125) + "bb", "a", strings.Repeat("b.", 125) + "bb", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(tt.text)
			if err != nil || a != (Address{tt.local, tt.domain}) {
				t.Fatalf("Parse(%q) = %+v, %v", tt.text, a, err)
			}
			want := tt.canonical
			if want == "" {
				want = tt.text
			}
			if got := a.String(); got != want {
				t.Errorf("String() = %q, want %q", got, want)
			}
			if got := a.LocalString() + "@" + a.Domain; got != want {
				t.Errorf("LocalString()@Domain = %q, want %q", got, want)
			}
		})
	}
}

func TestWhat_is_not_a_mailbox_is_refused_for_its_reason(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
	}{
		{"nothing", "", ErrLocal},
		{"no local part", "@example.com", ErrLocal},
		{"a leading dot", ".a@example.com", ErrLocal},
		{"a trailing dot", "a.@example.com", ErrLocal},
		{"two dots", "a..b@example.com", ErrLocal},
		{"a blank", "a b@example.com", ErrLocal},
		{"a control octet", "a\x01b@example.com", ErrLocal},
		{"a control octet in quotes", "\"a\x00b\"@example.com", ErrLocal},
		{"a C1 control character", "a\u009bb@example.com", ErrLocal},
		{"a quoted pair beyond ASCII", `"\ü"@example.com`, ErrLocal},
		{"a quote that does not end", `"abc@example.com`, ErrLocal},
		{"a quote that an escape keeps open", `"abc\"`, ErrLocal},
		{"text behind the quotes", `"abc"d@example.com`, ErrLocal},
		{"a quote inside an atom", `a"b"@example.com`, ErrLocal},
		{"a comment", "a(b)@example.com", ErrLocal},
		{"an empty domain", "a@", ErrDomain},
		{"two @", "a@b@c", ErrDomain},
		{"an empty label", "a@b..c", ErrDomain},
		{"a trailing dot of the domain", "a@b.", ErrDomain},
		{"a leading hyphen", "a@-b", ErrDomain},
		{"a trailing hyphen", "a@b-.c", ErrDomain},
		{"an underscore", "a@b_c", ErrDomain},
		{"a label of 64 octets", "a@" + strings.Repeat("b", 64), ErrDomain},
		{"a literal that does not end", "a@[192.0.2.1", ErrDomain},
		{"a literal out of range", "a@[192.0.2.256]", ErrDomain},
		{"a literal with leading zeros", "a@[192.0.02.1]", ErrDomain},
		{"an IPv6 literal without its tag", "a@[2001:db8::1]", ErrDomain},
		{"an IPv4 literal with a tag", "a@[IPv6:192.0.2.1]", ErrDomain},
		{"a zone", "a@[IPv6:fe80::1%eth0]", ErrDomain},
		{"a literal of an unknown kind", "a@[x400:abc]", ErrDomain},
		{"a :: for one group", "a@[IPv6:1::3:4:5:6:7:8]", ErrDomain},
		{"a :: for one group before IPv4", "a@[IPv6:1::3:4:5:6:192.0.2.1]", ErrDomain},
		{"text behind a literal", "a@[192.0.2.1]x", ErrDomain},
		{"no domain", "postmaster", ErrNoDomain},
		{"not UTF-8", "a\xff@example.com", ErrUTF8},
		{"a domain that is not UTF-8", "a@ex\xffample.com", ErrUTF8},
		{"a local part of 129 octets", strings.Repeat("l", 129) + "@h", ErrLength},
		{"a quoted local part of 129 octets", `"` + strings.Repeat("l", 127) + `"@h`, ErrLength},
		{"a path of 257 octets", "a@" + strings.Repeat("b.", 126) + "b", ErrLength},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if a, err := Parse(tt.text); !errors.Is(err, tt.want) {
				t.Fatalf("Parse(%q) = %+v, %v, want %v", tt.text, a, err, tt.want)
			}
		})
	}
}

func TestA_local_part_alone_comes_with_its_error(t *testing.T) {
	for text, local := range map[string]string{"Postmaster": "Postmaster", `"post master"`: "post master"} {
		a, err := Parse(text)
		if !errors.Is(err, ErrNoDomain) || a != (Address{Local: local}) {
			t.Errorf("Parse(%q) = %+v, %v", text, a, err)
		}
		if a.String() != text || string(a.AppendTo(nil)) != text {
			t.Errorf("%+v is written %q and %q", a, a.String(), a.AppendTo(nil))
		}
	}
}

func TestA_path_ends_at_its_bracket(t *testing.T) {
	tests := []struct {
		name, text, address, rest string
		want                      error
	}{
		{"a mailbox", "<a@b>", "a@b", "", nil},
		{"what follows is returned", "<a@b> SIZE=1", "a@b", " SIZE=1", nil},
		{"the null path", "<>", "", "", nil},
		{"the null path with parameters", "<> BODY=7BIT", "", " BODY=7BIT", nil},
		{"a bracket inside quotes", `<"a>b"@c>x`, `"a>b"@c`, "x", nil},
		{"an escaped quote", `<"a\">b"@c>x`, `"a\">b"@c`, "x", nil},
		{"a source route", "<@x:a@b>", "a@b", "", nil},
		{"a longer source route", "<@x,@y.z:a@b> R", "a@b", " R", nil},
		{"a source route before quotes", `<@x:"a>:@b"@b>`, `"a>:@b"@b`, "", nil},
		{"no brackets", "a@b", "", "a@b", ErrBrackets},
		{"nothing", "", "", "", ErrBrackets},
		{"no closing bracket", "<a@b", "", "<a@b", ErrBrackets},
		{"a closing bracket in open quotes", `<"a@b>`, "", " unused", ErrLocal},
		{"a local part alone", "<postmaster> X", "postmaster", " X", ErrNoDomain},
		{"a source route without a mailbox", "<@x:> X", "", " X", ErrLocal},
		{"a source route without a colon", "<@x> X", "", " X", ErrLocal},
		{"a source route with a bad domain", "<@x_:a@b> X", "", " X", ErrLocal},
		{"a source route with an empty domain", "<@:a@b> X", "", " X", ErrLocal},
		{"a blank inside", "< a@b> X", "", " X", ErrLocal},
		{"a second opening bracket", "<<a@b>> X", "", "> X", ErrLocal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, rest, err := ParsePath(tt.text)
			if !errors.Is(err, tt.want) || a.String() != tt.address {
				t.Fatalf("ParsePath(%q) = %q, %q, %v, want %q, %v", tt.text, a, rest, err, tt.address, tt.want)
			}
			if tt.rest != " unused" && rest != tt.rest {
				t.Errorf("ParsePath(%q) left %q, want %q", tt.text, rest, tt.rest)
			}
		})
	}
}

func TestEqual_passes_over_the_case_of_local_parts_only(t *testing.T) {
	a := Address{"Jürgen", "example.com"}
	for b, want := range map[Address]bool{
		{"jÜRGEN", "example.com"}: true,
		{"jurgen", "example.com"}: false,
		{"Jürgen", "example.net"}: false,
	} {
		if a.Equal(b) != want {
			t.Errorf("%v.Equal(%v) = %v", a, b, !want)
		}
	}
}

func TestA_canonical_address_is_read_without_allocation(t *testing.T) {
	for _, text := range []string{"<user@example.com> SIZE=1", `<"a b"@example.com>`, "<@a,@b:u@[192.0.2.1]>"} {
		if n := testing.AllocsPerRun(100, func() { _, _, _ = ParsePath(text) }); n != 0 {
			t.Errorf("ParsePath(%q) allocates %v times", text, n)
		}
	}
}

// holdsTogether checks what every Address that Parse returned promises.
func holdsTogether(t interface{ Fatalf(string, ...any) }, text string) {
	a, err := Parse(text)
	if err != nil {
		return
	}
	canonical := a.String()
	b, err := Parse(canonical)
	if err != nil || b != a {
		t.Fatalf("%q is %+v, written %q, read again %+v, %v", text, a, canonical, b, err)
	}
	if again := b.String(); again != canonical {
		t.Fatalf("%q is written %q, then %q", text, canonical, again)
	}
	if appended := string(a.AppendTo([]byte("x"))); appended != "x"+canonical {
		t.Fatalf("AppendTo gives %q, String %q", appended, canonical)
	}
	path, rest, err := ParsePath("<" + canonical + ">rest")
	if err != nil || path != a || rest != "rest" {
		t.Fatalf("<%s> is read %+v, %q, %v", canonical, path, rest, err)
	}
}

func TestWhat_is_written_is_read_as_the_same_address(t *testing.T) {
	mailbox := rapid.StringMatching(`("([ -!#-\[\]-~üß]|\\[ -~]){0,12}"|[a-z.+ü]{1,8})@(\[(IPv6:)?[0-9a-f:.]{2,20}\]|[a-zA-Z0-9.-]{1,20})`)
	rapid.Check(t, func(t *rapid.T) { holdsTogether(t, mailbox.Draw(t, "mailbox")) })
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"a@b", `"a b\""@b.c`, "a@[192.0.2.1]", "a@[IPv6:1::]", "postmaster", "ü@exämple.com", `""@x`, "a@ｂ。c", "a@xn--a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { holdsTogether(t, text) })
}

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{"<>", "<a@b>", "<@a,@b:u@d> X", `<"a>\"b"@c>`, "<@:", "<\"\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, rest, err := ParsePath(text)
		if !strings.HasSuffix(text, rest) {
			t.Fatalf("ParsePath(%q) left %q", text, rest)
		}
		if !errors.Is(err, ErrBrackets) && len(rest) > 0 && text[len(text)-len(rest)-1] != '>' {
			t.Fatalf("ParsePath(%q) left %q, which follows no bracket", text, rest)
		}
	})
}

func BenchmarkParsePath(b *testing.B) {
	for _, text := range []string{"<some.user+tag@mail.example.com> SIZE=1000", "<Some.User@Mail.Example.COM>", `<"a b"@example.com>`} {
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := ParsePath(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendTo(b *testing.B) {
	a := Address{"some.user+tag", "mail.example.com"}
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = a.AppendTo(buf[:0])
	}
}
