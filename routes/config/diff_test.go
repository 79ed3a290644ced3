package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// lines writes changes one a line.
func lines(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(c.Key + " " + c.Place.String() + " " + c.Effect + ": " + c.Old + " -> " + c.New)
		if c.Removed {
			b.WriteString(" (removed)")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestDiff_tells_what_changed_where_and_when_it_is_in_force(t *testing.T) {
	support(t)
	t.Setenv("LSMTPD_HOST", "a")
	const hash = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ0123"
	users := `auth: {allow_plaintext: true, users: [{name: u, password_hash: "` + hash
	tests := []struct{ name, old, new, want string }{
		{"nothing", smallest, "# the same\n" + smallest, ""},
		{"a default written out", smallest, "log: {level: info}\n" + smallest, ""},
		{"top keys", "log: {level: warn}\ndrain_timeout: 5s\n" + smallest, "spool: {max_bytes: 1536MiB}\n" + smallest, `
log.level lsmtpd.yaml:1:1 live: warn -> info (removed)
drain_timeout lsmtpd.yaml:1:1 live: 5s -> 30s (removed)
spool.max_bytes lsmtpd.yaml:1:20 live: 10GiB -> 1536MiB
`},
		{"lists", "include: [a*, b*]\n" + smallest, "include: [c*]\n" + smallest, `
include lsmtpd.yaml:1:10 live: [a*, b*] -> [c*] (removed)
`},
		{"secrets", "amqp: {urls: [\"amqp://a:b@c/\"]}\n" + smallest, smallest, `
amqp.urls lsmtpd.yaml:1:1 live: [amqp://a:(secret)@c/] -> [amqp://guest:(secret)@127.0.0.1:5672/] (removed)
`},
		{"what the environment gives", "hostname: ${LSMTPD_HOST}.example\ndefaults: {headers: {token: \"${LSMTPD_HOST}\"}}\n" + smallest, "hostname: b.example\n" + smallest, `
hostname lsmtpd.yaml:1:11 session: (from the environment) -> b.example
listeners[a].hostname lsmtpd.yaml:2:13 session: a.example -> b.example
listeners[a].headers lsmtpd.yaml:2:13 transaction: (from the environment) ->  (removed)
`},
		{"topology", smallest, "amqp: {topology: {queues: [{name: q, arguments: {b: 1, a: [x]}}]}}\n" + smallest, `
amqp.topology.queues lsmtpd.yaml:1:27 live:  -> [{name: q, durable: true, arguments: {a: [x], b: 1}}]
`},
		{"listeners by name", "listeners: [{name: a, address: \":1\"}, {name: b, address: \":2\", size_limit: 1KiB}]\n",
			"listeners:\n- {name: b, address: \":3\", allow: [10.0.0.0/8]}\n- {name: c, address: \":1\"}\n", `
listeners[b].address lsmtpd.yaml:2:22 live: :2 -> :3
listeners[b].size_limit lsmtpd.yaml:2:3 session: 1KiB -> 10MiB (removed)
listeners[b].allow lsmtpd.yaml:2:35 transaction:  -> [10.0.0.0/8]
listeners[c] lsmtpd.yaml:3:3 live:  -> :1
listeners[a] lsmtpd.yaml:2:1 live: :1 ->  (removed)
`},
		{"the defaults change each listener", "defaults: {max_memory: 5%}\n" + smallest, "defaults: {max_memory: 1KB, format: raw}\n" + smallest, `
listeners[a].format lsmtpd.yaml:1:37 transaction: json -> raw
listeners[a].max_memory lsmtpd.yaml:1:24 live: 5% -> 1KB
`},
		{"users", "listeners:\n- {name: a, address: \":1\", " + users + "4\"}]}}\n", "listeners:\n- {name: a, address: \":1\", " + users + "5\"}]}}\n", `
listeners[a].auth.users lsmtpd.yaml:2:65 transaction: [{name: u, password_hash: (secret)}] -> [{name: u, password_hash: (secret)}]
`},
		{"a mapping gone", "listeners:\n- {name: a, address: \":1\", " + users + "4\"}]}}\n", "listeners:\n- {name: a, address: \":1\"}\n", `
listeners[a].auth lsmtpd.yaml:2:3 transaction: {allow_plaintext: true, users: [{name: u, password_hash: (secret)}]} ->  (removed)
`},
		{"a route changed", routed("{match: {recipient: a@b}, exchange: x}"), routed("{match: {recipient: [a@b, c@d], user: u}, exchange: \"\", headers: {a: b}}"), `
listeners[a].routes[0].match.recipient lsmtpd.yaml:5:25 transaction: [a@b] -> [a@b, c@d]
listeners[a].routes[0].match.user lsmtpd.yaml:5:43 transaction:  -> [u]
listeners[a].routes[0].exchange lsmtpd.yaml:5:57 transaction: x -> 
listeners[a].routes[0].headers lsmtpd.yaml:5:70 transaction:  -> {a: b}
`},
		{"a route put in", routed("{match: {user: u}, exchange: x}", "{match: {user: v}, exchange: x}"),
			routed("{match: {user: u}, exchange: x}", "{match: {user: w}, reject: \"550 no\"}", "{match: {user: v}, exchange: x}"), `
listeners[a].routes[1] lsmtpd.yaml:6:5 transaction:  -> {match: {user: [w]}, reject: 550 no}
`},
		{"a route taken out", routed("{match: {user: u}, exchange: x}", "{match: {user: v}, exchange: x}"), routed("{match: {user: v}, exchange: x}"), `
listeners[a].routes[0] lsmtpd.yaml:5:3 transaction: {match: {user: [u]}, exchange: x} ->  (removed)
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := lines(Diff(read(t, tt.old), read(t, tt.new)))
			if want := strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// routed is a file with one listener and its routes from line 5 on.
func routed(routes ...string) string {
	file := "listeners:\n- name: a\n  address: \":1\"\n  routes: # here\n"
	for _, r := range routes {
		file += "  - " + r + "\n"
	}
	return file
}

func TestDiff_sees_another_password_in_the_same_file(t *testing.T) {
	read := func(password string) *Config {
		write(t, map[string]string{"lsmtpd.yaml": "amqp: {password_file: p}\n" + smallest, "p": password})
		c, err := Read("lsmtpd.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	got := lines(Diff(read("a"), read("b\n")))
	if want := "amqp.password_file lsmtpd.yaml:1:23 live: (secret) -> (secret)\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := Diff(read("a"), read("a\n")); got != nil {
		t.Errorf("the end of the line is no change, got %v", got)
	}
}

// TestRoutes_that_differ_in_any_key_are_not_the_same holds Route.same against the tags: whoever adds a key to a route adds
// it there.
func TestRoutes_that_differ_in_any_key_are_not_the_same(t *testing.T) {
	var base Route
	if !base.same(&Route{Place: Place{Line: 7}}) {
		t.Error("the place makes a difference")
	}
	var change func(g *group, path string)
	change = func(g *group, path string) {
		for i := range g.fields {
			f := &g.fields[i]
			if f.group != nil {
				change(f.group, path)
				continue
			}
			var r Route
			v := reflect.ValueOf(&r).Elem()
			if strings.HasPrefix(f.path, "match.") {
				v = v.FieldByName("Match")
			}
			v = f.value(v)
			switch v.Kind() {
			case reflect.String:
				v.SetString("x")
			case reflect.Pointer:
				v.Set(reflect.New(v.Type().Elem()))
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			case reflect.Map:
				v.Set(reflect.ValueOf(map[string]string{"x": "y"}))
			default:
				t.Fatalf("%s is a %v", f.path, v.Kind())
			}
			if r.same(&base) || base.same(&r) {
				t.Errorf("%s makes no difference", f.path)
			}
		}
	}
	change(routeGroup, "")
}

func BenchmarkDiff(b *testing.B) {
	content := []byte("listeners:\n")
	for i := range 1000 {
		content = fmt.Appendf(content, "- name: l%d\n  address: 127.0.0.1:%d\n  exchange: x\n  routes:\n", i, 10000+i)
		for j := range 100 {
			content = fmt.Appendf(content, "  - {match: {recipient: \"*@d%d.example\"}, routing_key: k%d}\n", j, j)
		}
	}
	old, new := read(b, string(content)), read(b, "# moved\n"+string(content))
	for b.Loop() {
		if changes := Diff(old, new); changes != nil {
			b.Fatal(changes)
		}
	}
}
