package routes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lsmtpd/routes/config"

	"gopkg.in/yaml.v3"
)

// load writes a configuration and loads it.
func load(t testing.TB, content string) (*Table, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lsmtpd.yaml", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load("lsmtpd.yaml")
}

// listener is the only listener of a configuration that must be good. content is its keys, below name and address.
func listener(t testing.TB, content string) *Listener {
	t.Helper()
	table, err := load(t, below(content))
	if err != nil {
		t.Fatal(err)
	}
	return table.Listeners[0]
}

// below puts a listener's keys into a file: they begin in line 4.
func below(content string) string {
	lines := strings.Split(strings.Trim(content, "\n"), "\n")
	return "listeners:\n- name: inbound\n  address: 127.0.0.1:2525\n  " + strings.Join(lines, "\n  ") + "\n"
}

func TestEvery_shipped_configuration_is_good(t *testing.T) {
	for _, path := range []string{"../lsmtpd.yaml", "../examples/reference.yaml"} {
		table, err := Load(path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if len(table.Listeners) != 2 || len(table.Warnings) != 0 {
			t.Errorf("%s has %d listeners and the warnings %v", path, len(table.Listeners), table.Warnings)
		}
	}
}

func TestThe_smallest_configuration_sends_mail_to_queues_that_it_declares(t *testing.T) {
	table, err := Load("../lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range table.Listeners {
		q := Query{Recipient: parse("b@example.com"), Sender: parse("a@example.com")}
		d := l.Route(&q).Destination(&q)
		bound := false
		for _, b := range table.Config.AMQP.Topology.Bindings {
			bound = bound || b.Exchange == d.Exchange && strings.HasPrefix(d.RoutingKey, strings.TrimSuffix(b.RoutingKey, "#"))
		}
		if !bound {
			t.Errorf("%s sends to %q with %q, and no binding takes that", l.Name, d.Exchange, d.RoutingKey)
		}
	}
}

func TestWhat_only_the_whole_shows_is_a_fault_with_its_place(t *testing.T) {
	const long = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	tests := []struct{ name, content, want string }{
		{"an unknown name", `routing_key: "mail.{recipent.domain}"`, `
lsmtpd.yaml:4:16: listeners[0].routing_key: "mail.{recipent.domain}": there is no {recipent.domain} (did you mean recipient.domain?) [listener inbound]`},
		{"an open brace", "exchange: x\nheaders: {a: \"{sender\"}", `
lsmtpd.yaml:5:16: listeners[0].headers.a: "{sender": { begins a name, which } must end (like {recipient.domain}) [listener inbound]`},
		{"an exchange that a sender could choose", `exchange: "{recipient.local}"`, `
lsmtpd.yaml:4:13: listeners[0].exchange: {recipient.local} is not allowed here: a sender could choose the exchange by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]`},
		{"a domain that nobody names", `exchange: "{recipient.domain}"`, `
lsmtpd.yaml:4:13: listeners[0].exchange: {recipient.domain} is not allowed here: a sender could choose the exchange by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]`},
		{"a domain that a route does not name", `
routes:
- {match: {sender: a.b}, exchange: "{recipient.domain}"}
- {match: {recipient: .a.b}, exchange: "{recipient.domain}"}
- {match: {recipient: [a.b, "*@*.c"]}, exchange: "{recipient.domain}"}
- {match: {recipient: [a.b, "*@c", "x*@d", u@e]}, exchange: "{recipient.domain}"}`, `
lsmtpd.yaml:5:38: listeners[0].routes[0].exchange: {recipient.domain} is not allowed here: a sender could choose the exchange by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]
lsmtpd.yaml:6:42: listeners[0].routes[1].exchange: {recipient.domain} is not allowed here: a sender could choose the exchange by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]
lsmtpd.yaml:7:52: listeners[0].routes[2].exchange: {recipient.domain} is not allowed here: a sender could choose the exchange by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]`},
		{"a queue that a sender could choose", "exchange: \"\"\nrouting_key: \"{sender.domain}\"", `
lsmtpd.yaml:5:16: listeners[0].routing_key: {sender.domain} is not allowed on the default exchange: a sender could choose the queue by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]`},
		{"a queue that a sender could choose by the listener's key", `
exchange: x
routing_key: "{recipient}"
routes: [{match: {recipient: a.b}, exchange: ""}]`, `
lsmtpd.yaml:6:12: listeners[0].routes[0].routing_key: {recipient} is not allowed on the default exchange: a sender could choose the queue by it; allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains [listener inbound]`},
		{"the default exchange without a queue", `exchange: ""`, `
lsmtpd.yaml:2:3: listeners[0].routing_key: is missing: on the default exchange it names the queue [listener inbound]`},
		{"no exchange anywhere", "routes: [{match: {recipient: a.b}}, {match: {recipient: c.d}, exchange: x}]", `
lsmtpd.yaml:4:12: listeners[0].routes[0]: has no exchange, and its listener has none either: give one of them exchange, or the route reject [listener inbound]`},
		{"entries that match nothing there is", `
exchange: x
routes:
- match: {recipient: ["a b@c", postmaster, "<>", "@", "a@.b", "*@b..c", "*@bü*.de", "*@[192.0.2.*]", ".[192.0.2.1]", ""], sender: "a@b@c"}`, `
lsmtpd.yaml:6:25: listeners[0].routes[0].match.recipient[0]: "a b@c" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:34: listeners[0].routes[0].match.recipient[1]: "postmaster" would be a domain: write postmaster@* [listener inbound]
lsmtpd.yaml:6:46: listeners[0].routes[0].match.recipient[2]: "<>" is the null sender: no recipient is [listener inbound]
lsmtpd.yaml:6:52: listeners[0].routes[0].match.recipient[3]: "@" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:57: listeners[0].routes[0].match.recipient[4]: "a@.b" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:65: listeners[0].routes[0].match.recipient[5]: "*@b..c" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:75: listeners[0].routes[0].match.recipient[6]: "*@bü*.de" has a * in a domain that is not ASCII: write its labels as xn--… [listener inbound]
lsmtpd.yaml:6:87: listeners[0].routes[0].match.recipient[7]: "*@[192.0.2.*]" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:104: listeners[0].routes[0].match.recipient[8]: ".[192.0.2.1]" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:120: listeners[0].routes[0].match.recipient[9]: "" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]
lsmtpd.yaml:6:133: listeners[0].routes[0].match.sender[0]: "a@b@c" is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com) [listener inbound]`},
		{"replies that do not refuse", `
routes:
- {match: {user: a}, reject: "250 2.0.0 fine"}
- {match: {user: a}, reject: "55 no"}
- {match: {user: a}, reject: "550 4.1.1 no"}
- {match: {user: a}, reject: "421 go away"}
- {match: {user: a}, reject: "nö"}
- {match: {user: a}, reject: "560 no"}
- {match: {user: a}, reject: "` + long + long + long + long + `a"}
- {match: {user: a}, reject: "550 no", exchange: x}`, `
lsmtpd.yaml:5:32: listeners[0].routes[0].reject: "250 2.0.0 fine" is not a reply that refuses (like 550 5.1.1 this address has moved) [listener inbound]
lsmtpd.yaml:6:32: listeners[0].routes[1].reject: "55 no" is not a reply that refuses (like 550 5.1.1 this address has moved) [listener inbound]
lsmtpd.yaml:7:32: listeners[0].routes[2].reject: "550 4.1.1 no": 4.1.1 is of another class than 550 [listener inbound]
lsmtpd.yaml:8:32: listeners[0].routes[3].reject: "421 go away": 421 says that the server goes away: take 450 or 451 [listener inbound]
lsmtpd.yaml:9:32: listeners[0].routes[4].reject: "nö" holds a sign that a reply cannot: only ASCII is understood by every client [listener inbound]
lsmtpd.yaml:10:32: listeners[0].routes[5].reject: "560 no" is not a reply that refuses (like 550 5.1.1 this address has moved) [listener inbound]
lsmtpd.yaml:11:32: listeners[0].routes[6].reject: is over 400 octets [listener inbound]
lsmtpd.yaml:12:32: listeners[0].routes[7].reject: refuses the mail, and exchange, routing_key, format or headers say where it goes: keep one of the two [listener inbound]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, below(tt.content))
			if _, ok := err.(config.Faults); !ok {
				t.Fatalf("Load gives %T %v", err, err)
			}
			if got, want := err.Error(), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestFaults_of_files_and_of_routes_are_told_together_unless_one_may_cause_the_other(t *testing.T) {
	_, err := load(t, `
listeners:
- {name: a, address: ":1", exchagne: x, routes: [{match: {recipient: a.b}}]}
- {name: b, address: ":2", exchange: "{x}"}
log: {level: loud}
`[1:])
	want := `
lsmtpd.yaml:2:28: listeners[0]: unknown key "exchagne" (did you mean exchange?) [listener a]
lsmtpd.yaml:3:38: listeners[1].exchange: "{x}": there is no {x} [listener b]
lsmtpd.yaml:4:14: log.level: "loud" is not debug, info, warn or error`[1:]
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	var faults config.Faults
	if !errors.As(err, &faults) || len(faults) != 3 {
		t.Errorf("%T", err)
	}
}

func TestAnUnknownKeyDoesNotHideWhatIsWrongWithTheOthers(t *testing.T) {
	_, err := load(t, `
listeners:
- {name: a, bogus: x, address: ":1", exchange: "{recipient.domain}", routing_key: "{foo}", routes: [{match: {recipient: "a@b@c"}, reject: "200 ok"}]}
`[1:])
	if err == nil || len(strings.Split(err.Error(), "\n")) != 5 {
		t.Errorf("want five faults, got\n%v", err)
	}
}

func TestA_fault_in_the_defaults_is_told_once(t *testing.T) {
	_, err := load(t, "defaults: {exchange: \"{x}\"}\nlisteners: [{name: a, address: \":1\"}, {name: b, address: \":2\"}]\n")
	if want := `lsmtpd.yaml:1:22: listeners[0].exchange: "{x}": there is no {x}`; err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestA_listener_that_refuses_everybody_is_a_warning(t *testing.T) {
	table, err := load(t, "listeners: [{name: a, address: \":1\"}]\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "lsmtpd.yaml:1:13: listeners[0]: has neither exchange nor routes: every recipient is refused [listener a]"
	if got := table.Warnings.Error(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if r := table.Listeners[0].Route(&Query{Recipient: parse("a@b")}); r != nil {
		t.Errorf("%v takes the mail", r.Name)
	}
}

func TestA_refusal_is_completed(t *testing.T) {
	for text, want := range map[string]Refusal{
		"550 5.1.1 this address has moved": {550, "5.1.1", "this address has moved"},
		"550 moved":                        {550, "5.7.1", "moved"},
		"450 later":                        {450, "4.7.1", "later"},
		"451":                              {451, "4.7.1", defaultText},
		"552 5.2.2":                        {552, "5.2.2", defaultText},
		"5.1.6 moved away":                 {550, "5.7.1", ""},
		"gone for good":                    {550, "5.7.1", "gone for good"},
		"550  5.1.1 x":                     {550, "5.1.1", "x"},
	} {
		got, wrong := parseRefusal(text)
		if want.Text == "" {
			if wrong == "" {
				t.Errorf("%q is %+v", text, got)
			}
			continue
		}
		if wrong != "" || *got != want {
			t.Errorf("%q is %+v, %q, want %+v", text, got, wrong, want)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for name, routes := range map[string]int{"1000x10": 10, "1000x100": 100} {
		path := filepath.Join(b.TempDir(), name+".yaml")
		if err := os.WriteFile(path, manyRoutes(routes), 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Load(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// manyRoutes is a file of 1,000 listeners with that many routes each.
func manyRoutes(routes int) []byte {
	var b strings.Builder
	b.WriteString("listeners:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "- name: tenant-%d\n  address: 127.0.0.1:%d\n  size_limit: 10MiB\n", i, 10000+i)
		fmt.Fprintf(&b, "  exchange: tenant-%d\n  routing_key: mail.{recipient.domain}\n  routes:\n", i)
		for j := range routes {
			fmt.Fprintf(&b, "  - match: {recipient: \"*@r%d.tenant-%d.example\"}\n", j, i)
			fmt.Fprintf(&b, "    exchange: tenant-%d\n    routing_key: \"r%d.{sender.domain}\"\n", i, j)
		}
	}
	return []byte(b.String())
}

// BenchmarkYAML is the part of BenchmarkLoad that is not ours.
func BenchmarkYAML(b *testing.B) {
	for name, routes := range map[string]int{"1000x10": 10, "1000x100": 100} {
		content := manyRoutes(routes)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var n yaml.Node
				if err := yaml.Unmarshal(content, &n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
