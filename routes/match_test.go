package routes

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"lsmtpd/routes/address"

	"pgregory.net/rapid"
)

// parse reads an address that must be good; "" is the null sender.
func parse(s string) address.Address {
	if s == "" {
		return address.Address{}
	}
	a, err := address.Parse(s)
	if err != nil {
		panic(s + ": " + err.Error())
	}
	return a
}

func TestAn_entry_takes_the_addresses_it_describes_and_no_others(t *testing.T) {
	tests := []struct {
		entry string
		yes   []string
		no    []string
	}{
		{"User@Example.COM", []string{"user@example.com", "USER@example.com", `"user"@example.com`}, []string{"users@example.com", "user@sub.example.com", ""}},
		{`"a b"@example.com`, []string{`"a b"@example.com`, `"A B"@example.com`}, []string{"ab@example.com"}},
		{`"a*"@example.com`, []string{"a*@example.com"}, []string{"ab@example.com"}},
		{`"a*"@*`, []string{"a*@example.com", "a*@x"}, []string{"ab@example.com"}},
		{"jürgen@example.com", []string{"JÜRGEN@example.com"}, []string{"jurgen@example.com"}},
		{"example.com", []string{"a@example.com", `"x@y"@example.com`}, []string{"a@sub.example.com", "a@xexample.com", "a@example.com.x", `"a@example.com"@x`, ""}},
		{".example.com", []string{"a@sub.example.com", "a@a.b.example.com"}, []string{"a@example.com", "a@xexample.com", `"a@sub.example.com"@x`, ""}},
		{"Bücher.example", []string{"a@xn--bcher-kva.example", "a@BÜCHER.example"}, []string{"a@bucher.example"}},
		{".bücher.example", []string{"a@x.xn--bcher-kva.example"}, []string{"a@bücher.example"}},
		{"*@bücher.example", []string{"a@bücher.example"}, []string{"a@x.bücher.example"}},
		{"[192.0.2.1]", []string{"a@[192.0.2.1]"}, []string{"a@[192.0.2.2]"}},
		{"a@[ipv6:2001:DB8::1]", []string{"a@[IPv6:2001:db8:0:0::1]"}, []string{"a@[IPv6:2001:db8::2]"}},
		{"*", []string{"a@b", `"@"@c`}, []string{""}},
		{"*@*", []string{"a@b"}, []string{""}},
		{"*@example.com", []string{"a@example.com", `"a b"@example.com`, `"@"@example.com`}, []string{`"a@example.com"@b`, "a@b.example.com"}},
		{"invoices@*", []string{"Invoices@a", "invoices@b.c"}, []string{"invoice@a", `"invoices@a"@b`, "xinvoices@a"}},
		{"in*s+*@*.example.com", []string{"ins+@a.example.com", "INvoiceS+x+y@a.b.example.com"}, []string{"ins@a.example.com", "ins+x@example.com"}},
		{"*.example.com", []string{"a@b.example.com", "a@b.c.example.com"}, []string{"a@example.com"}},
		{"a*b*@x", []string{"ab@x", "aabb@x", "aXbY@x", "abab@x"}, []string{"ba@x", "a@x"}},
		{"ü*@x", []string{"Üa@x"}, []string{"ua@x"}},
		{"k*@x", []string{"K@x", "\u212aa@x"}, []string{"l@x"}},
		{"<>", []string{""}, []string{"a@b", `""@b`}},
		{`""@b`, []string{`""@b`}, []string{"", "a@b"}},
	}
	for _, tt := range tests {
		t.Run(tt.entry, func(t *testing.T) {
			m, wrong := parseMailbox(tt.entry)
			if wrong != "" {
				t.Fatal(wrong)
			}
			for _, s := range tt.yes {
				if a := parse(s); !m.holds(&a) {
					t.Errorf("%q is not taken", s)
				}
			}
			for _, s := range tt.no {
				if a := parse(s); m.holds(&a) {
					t.Errorf("%q is taken", s)
				}
			}
		})
	}
}

func TestA_wildcard_means_what_it_means_in_a_regular_expression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*ü]{0,8}`).Draw(t, "pattern")
		text := rapid.StringMatching(`[abü]{0,12}`).Draw(t, "text")
		want := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", ".*") + "$").MatchString(text)
		if got := wildMatch(strings.Map(fold, pattern), text); got != want {
			t.Fatalf("%q takes %q: %v, want %v", pattern, text, got, want)
		}
	})
}

func TestFolding_agrees_with_EqualFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom([]rune("kKsSaAüÜßẞſ\u212aǅǆǄσςΣ")).Draw(t, "a")
		b := rapid.SampledFrom([]rune("kKsSaAüÜßẞſ\u212aǅǆǄσςΣ")).Draw(t, "b")
		if got, want := fold(a) == fold(b), strings.EqualFold(string(a), string(b)); got != want {
			t.Fatalf("%c and %c: %v, want %v", a, b, got, want)
		}
	})
}

const manyWays = `
exchange: other
routes:
- {name: billing, match: {recipient: ["*@billing.example", "invoices@*"], sender: partner.example, client: [192.0.2.0/24, "2001:db8::/32"], user: [app, web]}, exchange: billing}
- {name: bounces, match: {sender: "<>"}, exchange: bounces}
- {name: inside, match: {client: 10.0.0.0/8}, exchange: inside}
- {match: {user: root}, reject: "550 5.7.1 not you"}
- {name: last, match: {recipient: example.com}, exchange: last}
`

func TestThe_first_route_whose_every_key_holds_takes_the_recipient(t *testing.T) {
	l := listener(t, manyWays)
	base := Query{Sender: parse("a@partner.example"), Recipient: parse("x@billing.example"), Client: netip.MustParseAddr("192.0.2.7"), User: "app"}
	for _, tt := range []struct {
		name   string
		change func(q *Query)
		want   string
	}{
		{"all keys hold", func(*Query) {}, "billing"},
		{"another entry of each list", func(q *Query) {
			q.Recipient, q.Client, q.User = parse("invoices@x"), netip.MustParseAddr("2001:db8::7"), "web"
		}, "billing"},
		{"an IPv4 client on an IPv6 socket", func(q *Query) { q.Client = netip.MustParseAddr("::ffff:192.0.2.7") }, "billing"},
		{"the recipient does not", func(q *Query) { q.Recipient = parse("x@y") }, "default"},
		{"the sender does not", func(q *Query) { q.Sender = parse("a@b") }, "default"},
		{"the client does not", func(q *Query) { q.Client = netip.MustParseAddr("192.0.3.7") }, "default"},
		{"there is no client address", func(q *Query) { q.Client = netip.Addr{} }, "default"},
		{"the user does not", func(q *Query) { q.User = "App" }, "default"},
		{"there is no user", func(q *Query) { q.User = "" }, "default"},
		{"the null sender", func(q *Query) { q.Sender = address.Address{} }, "bounces"},
		{"two would", func(q *Query) {
			q.Sender, q.Client, q.Recipient = parse("a@b"), netip.MustParseAddr("10.1.2.3"), parse("a@example.com")
		}, "inside"},
		{"a refusal comes in its turn", func(q *Query) { q.User, q.Recipient = "root", parse("a@example.com") }, "#4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := base
			tt.change(&q)
			r := l.Route(&q)
			if r.Name != tt.want {
				t.Errorf("%s takes it, want %s", r.Name, tt.want)
			}
			if (r.Refusal != nil) != (tt.want == "#4") {
				t.Errorf("the refusal is %+v", r.Refusal)
			}
			if n := testing.AllocsPerRun(100, func() { l.Route(&q) }); n != 0 {
				t.Errorf("it allocates %v times", n)
			}
		})
	}
}

func TestA_recipient_that_no_route_takes_has_nowhere_to_go_without_an_exchange(t *testing.T) {
	l := listener(t, "routes: [{match: {recipient: a.b}, exchange: x}]")
	if r := l.Route(&Query{Recipient: parse("u@c.d")}); r != nil {
		t.Errorf("%s takes it", r.Name)
	}
}

func BenchmarkRoute(b *testing.B) {
	l := listener(b, manyWays)
	q := Query{Sender: parse("a@partner.example"), Recipient: parse("x@other.example"), Client: netip.MustParseAddr("192.0.2.7"), User: "app"}
	b.ReportAllocs()
	for b.Loop() {
		if l.Route(&q) == nil {
			b.Fatal("nobody takes it")
		}
	}
}
