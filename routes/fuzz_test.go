package routes

import (
	"strings"
	"testing"
)

// FuzzValues gives what an operator may write in a route to each of its parsers.
func FuzzValues(f *testing.F) {
	for _, seed := range []string{
		"a@b", "*@b", `"a b"@c`, ".a.b", "<>", "*", "mail.{recipient.domain}", "{", "{listener}{user}", "550 5.1.1 moved", "550", "5.1.1", "a@[IPv6:::1]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, wrong := parseMailbox(s); wrong == "" && !m.null {
			a := parse("some.body@example.com")
			m.holds(&a)
			if a.Local, a.Domain = m.local.text, m.domain.text; m.local.how == exactly && m.domain.how == exactly && !m.holds(&a) {
				t.Errorf("%q does not take %v", s, a)
			}
		}
		if tmpl, wrong := parseTemplate(s, "inbound"); wrong == "" {
			q := Query{Recipient: parse("a+b@c"), Sender: parse("d@e")}
			if got := tmpl.render(&q, asKey); !strings.Contains(s, "{") && got != s {
				t.Errorf("%q is rendered %q", s, got)
			}
		}
		if s == "" {
			return
		}
		if r, wrong := parseRefusal(s); wrong == "" && (r.Code < 400 || r.Code > 559 || int(r.Enhanced[0]-'0') != r.Code/100 || r.Text == "") {
			t.Errorf("%q refuses with %+v", s, r)
		}
	})
}
