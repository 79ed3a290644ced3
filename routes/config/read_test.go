package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write puts files into a new directory, works there, and returns it without symbolic links.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return dir
}

// read reads a configuration that must be good.
func read(t testing.TB, content string) *Config {
	t.Helper()
	write(t, map[string]string{"lsmtpd.yaml": content})
	c, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// support lets a test use what is not supported yet.
func support(t *testing.T) {
	keys, schemes := pendingKeys, pendingSchemes
	pendingKeys, pendingSchemes = nil, nil
	t.Cleanup(func() { pendingKeys, pendingSchemes = keys, schemes })
}

const smallest = "listeners: [{name: a, address: \"127.0.0.1:2525\"}]\n"

func TestA_key_that_is_not_there_has_its_default(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	t.Setenv("RUNTIME_DIRECTORY", "/run/x:/run/y")
	c := read(t, smallest)
	host := c.Hostname
	if host == "" {
		t.Error("no hostname")
	}
	want := Config{
		Hostname: host, Log: Log{"info", "auto"}, DrainTimeout: 30 * time.Second,
		Admin: Admin{Socket: "/run/x/admin.sock", SocketIsDefault: true},
		AMQP: AMQP{
			URLs: []string{"amqp://guest:guest@127.0.0.1:5672/"}, Heartbeat: 10 * time.Second, ConnectTimeout: 5 * time.Second,
			ConfirmTimeout: 15 * time.Second, Buffer: 1000, MaxMessageSize: 16 << 20,
		},
		Spool:  Spool{Dir: "/tmp/lsmtp", MaxBytes: 10 << 30, MinFree: 256 << 20},
		Limits: Limits{Connections: 10000, Memory: 1 << 30}, IncludeErrors: "refuse",
	}
	listener := Listener{
		Name: "a", Address: "127.0.0.1:2525", Protocol: "smtp", Hostname: host, SizeLimit: 10 << 20,
		Destination: Destination{Format: "json"}, Timeout: 180 * time.Second, MinRate: 100, MaxRecipients: 1000, MaxDeliveries: 100,
		MaxMemory: Quota{Percent: 25}, SpoolMaxBytes: Quota{Percent: 25}, LineEndings: "reject", ReceivedHeader: true,
		OnBrokerFailure: "spool", OnUnroutable: "spool",
	}
	for _, changed := range diffOf(&want, c, root) {
		t.Errorf("%s is %q, want %q", changed.Key, changed.New, changed.Old)
	}
	for _, changed := range diffOf(&listener, &c.Listeners[0], listenerGroup) {
		t.Errorf("%s is %q, want %q", changed.Key, changed.New, changed.Old)
	}
	if c.Admin.SocketIsDefault != true || c.Path != "lsmtpd.yaml" || c.Listeners[0].Key != "listeners[0]" {
		t.Errorf("%+v", c)
	}
	if want := (Place{"lsmtpd.yaml", 1, 13}); c.Listeners[0].Place != want {
		t.Errorf("the listener is at %v, want %v", c.Listeners[0].Place, want)
	}
}

// diffOf compares the keys of two structs.
func diffOf[T any](want, got *T, g *group) []Change {
	d := &differ{before: &marks{}, after: &marks{}, at: func(string) Place { return Place{} }}
	d.group(g, reflect.ValueOf(want).Elem(), reflect.ValueOf(got).Elem())
	return d.changes
}

func TestThe_defaults_of_the_machine_follow_its_environment(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/var/lib/lsmtpd:/var/lib/other")
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	c := read(t, smallest)
	if c.Spool.Dir != "/var/lib/lsmtpd/spool" {
		t.Errorf("spool.dir is %s", c.Spool.Dir)
	}
	want := "/run/lsmtpd/admin.sock"
	if os.Geteuid() != 0 {
		want = "/run/user/7/lsmtpd/admin.sock"
	}
	if c.Admin.Socket != want {
		t.Errorf("admin.socket is %s, want %s", c.Admin.Socket, want)
	}
	t.Setenv("RUNTIME_DIRECTORY", "/"+strings.Repeat("x", 100))
	c = read(t, smallest)
	if c.Admin.Socket != "" || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), "over 107 octets") {
		t.Errorf("admin.socket is %s, warnings %v", c.Admin.Socket, c.Warnings)
	}
}

func TestEvery_kind_of_value_is_read(t *testing.T) {
	support(t)
	t.Setenv("LSMTPD_TEST_PORT", "2526")
	t.Setenv("LSMTPD_TEST_PASSWORD", "p$x")
	dir := write(t, map[string]string{
		"etc/lsmtpd.yaml": `
hostname: MX.Example
drain_timeout: 1m30s
admin: {address: "[::1]:08025", socket: run/admin.sock}
amqp:
  urls: ["amqp://a:${LSMTPD_TEST_PASSWORD}@h/v", "amqps://$$h:5671"]
  password_file: ../secret
  topology:
    exchanges: [{name: e, type: topic, durable: false, internal: true}]
    queues: [{name: q, exclusive: true, arguments: {i: 7, t: x, f: 1.5, b: true, l: [1, x], m: {k: v}}}]
    bindings: [{exchange: e, queue: q}]
spool: {dir: /var//spool, max_bytes: 500KB}
limits: {memory: 0}
defaults: {headers: {a: b}, exchange: d, timeout: 0, tls: null-not}
listeners:
  - name: a
    address: 0.0.0.0:${LSMTPD_TEST_PORT}
    exchange: ""
    received_header: false
    max_memory: 12.5%
    spool_max_bytes: 1GiB
    allow: [10.0.0.0/8, "2001:db8::1"]
    rate: {messages: 5, per: 2s}
    auth: {allow_plaintext: true, users_file: users, users: [{name: u, password_hash: "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"}]}
    routes:
      - {match: {recipient: a@b, client: 192.0.2.1, user: [x, y]}, headers: {x: $$y, z: "1$"}}
  - {name: b, address: "[::ffff:1.2.3.4]:25", headers: {}}
  - {name: c, address: "unix:in.sock"}
  - {name: d, address: "systemd:smtp"}
  - {name: e, address: ":27"}
`[1:],
		"secret":    "hush\n",
		"etc/users": "# people\nv:$2b$10$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234\r\n",
	})
	_, err := Read("etc/lsmtpd.yaml")
	if err == nil || err.Error() != `etc/lsmtpd.yaml:13:59: defaults.tls: "null-not" where keys and values are wanted (like mode: …)` {
		t.Fatal(err)
	}
	content, err := os.ReadFile("etc/lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("etc/lsmtpd.yaml", []byte(strings.Replace(string(content), ", tls: null-not", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read("etc/lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a := &c.Listeners[0]
	argument := map[string]any{"i": int64(7), "t": "x", "f": 1.5, "b": true, "l": []any{int64(1), "x"}, "m": map[string]any{"k": "v"}}
	addresses := make([]string, len(c.Listeners))
	for i := range c.Listeners {
		addresses[i] = c.Listeners[i].Address
	}
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"hostname", c.Hostname, "mx.example"},
		{"drain_timeout", c.DrainTimeout, 90 * time.Second},
		{"admin", c.Admin, Admin{Address: "[::1]:8025", Socket: "etc/run/admin.sock"}},
		{"urls", c.AMQP.URLs, []string{"amqp://a:p$x@h/v", "amqps://$h:5671"}},
		{"password", c.AMQP.Password, "hush"},
		{"exchange", c.AMQP.Topology.Exchanges, []Exchange{{Name: "e", Type: "topic", Internal: true}}},
		{"queue", c.AMQP.Topology.Queues, []Queue{{Name: "q", Durable: true, Exclusive: true, Arguments: argument}}},
		{"spool", c.Spool, Spool{Dir: "/var/spool", MaxBytes: 500_000, MinFree: 256 << 20}},
		{"memory", c.Limits.Memory, int64(0)},
		{"addresses", addresses, []string{"0.0.0.0:2526", "1.2.3.4:25", "unix:" + dir + "/etc/in.sock", "systemd:smtp", ":27"}},
		{"an empty exchange over the defaults'", *a.Exchange, ""},
		{"the defaults' exchange", *c.Listeners[1].Exchange, "d"},
		{"headers replaced by none", len(c.Listeners[1].Headers), 0},
		{"the defaults' headers", a.Headers, map[string]string{"a": "b"}},
		{"timeout", a.Timeout, time.Duration(0)},
		{"received_header", a.ReceivedHeader, false},
		{"max_memory", a.MaxMemory, Quota{Percent: 12.5}},
		{"its octets", a.MaxMemory.Of(1000), int64(125)},
		{"spool_max_bytes", a.SpoolMaxBytes.Of(1000), int64(1 << 30)},
		{"allow", a.Allow, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128")}},
		{"rate", *a.Rate, Rate{Messages: 5, Per: 2 * time.Second}},
		{"users", []string{a.Auth.Users[0].Name, a.Auth.Users[1].Name}, []string{"u", "v"}},
		{"match", a.Routes[0].Match, Match{
			Recipient: []string{"a@b"}, Client: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, User: []string{"x", "y"},
		}},
		{"dollars", a.Routes[0].Headers, map[string]string{"x": "$y", "z": "1$"}},
		{"a route that says no exchange", a.Routes[0].Exchange, (*string)(nil)},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s: %#v, want %#v", check.name, check.got, check.want)
		}
	}
	for _, source := range []string{"etc/lsmtpd.yaml", "secret", "etc/users"} {
		if !slices.Contains(c.Sources.Paths, filepath.Join(dir, source)) {
			t.Errorf("%s is no source: %v", source, c.Sources.Paths)
		}
	}
}

func TestA_key_knows_its_place(t *testing.T) {
	c := read(t, `
defaults: {size_limit: 1MiB}
listeners:
  - name: a
    address: 127.0.0.1:2525
    headers: {x: y}
    routes:
      - match: {recipient: [a@b, c@d]}
        exchange: x
`[1:])
	l := &c.Listeners[0]
	r := &l.Routes[0]
	for _, tt := range []struct {
		name      string
		got       Place
		line, col int
	}{
		{"a key", l.At("address"), 4, 14},
		{"a header", l.At("headers.x"), 5, 18},
		{"the defaults' key", l.At("size_limit"), 1, 24},
		{"a key that is not there", l.At("exchange"), 3, 5},
		{"a list's entry", r.At("match.recipient[1]"), 7, 34},
		{"an entry that is not there: the list", r.At("match.recipient[9]"), 7, 28},
		{"a key below one: the one", r.At("match.sender"), 7, 16},
		{"a route's key that is not there", r.At("routing_key"), 7, 9},
		{"a top key that is not there", c.At("amqp.urls"), 1, 1},
	} {
		if want := (Place{"lsmtpd.yaml", tt.line, tt.col}); tt.got != want {
			t.Errorf("%s is at %v, want %v", tt.name, tt.got, want)
		}
	}
	if got := l.RouteFault(0, "exchange", "is bad").String(); got != "lsmtpd.yaml:8:19: listeners[0].routes[0].exchange: is bad [listener a]" {
		t.Error(got)
	}
	if got := l.Fault("", "is bad").String(); got != "lsmtpd.yaml:3:5: listeners[0]: is bad [listener a]" {
		t.Error(got)
	}
}

func TestIncluded_listeners_come_behind_the_main_files_in_the_order_of_names(t *testing.T) {
	write(t, map[string]string{
		"[x]*/main.yaml": "include: [\"t[12]/*.yaml\"]\n",
		"[x]*/t1/a.yaml": smallest,
		"x/t1/b.yaml":    "not: read\n",
		"lsmtpd.yaml":    "include: [t/*.yaml, more/b.yaml, t/a.yaml]\ndefaults: {size_limit: 1MiB, exchange: x}\n" + smallest,
		"t/z.yaml":       "listeners: [{name: z, address: \":3\", exchange: \"$${x}\"}]\n",
		"t/a.yaml":       "listeners: [{name: b, address: \":4\", size_limit: 2MiB}]\n",
		"t/.hidden.yaml": "nothing: here\n",
		"t/notes.txt":    "nothing here\n",
		"more/b.yaml":    "listeners: [{name: c, address: \":5\"}, {name: d, address: \":6\"}]\n",
	})
	c, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range c.Listeners {
		l := &c.Listeners[i]
		got = append(got, l.Place.File+" "+l.Key+" "+l.Name+" "+*l.Exchange+" "+showSize(reflect.ValueOf(l.SizeLimit)))
	}
	want := []string{
		"lsmtpd.yaml listeners[0] a x 1MiB", "t/a.yaml listeners[0] b x 2MiB", "t/z.yaml listeners[0] z $${x} 1MiB",
		"more/b.yaml listeners[0] c x 1MiB", "more/b.yaml listeners[1] d x 1MiB",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c, err := Read("[x]*/main.yaml"); err != nil || len(c.Listeners) != 1 {
		t.Errorf("in a directory whose name looks like a pattern: %v", err)
	}
}

func TestA_file_that_cannot_be_read_is_one_clear_fault(t *testing.T) {
	dir := write(t, map[string]string{"large": strings.Repeat("#\n", maxFile/2+1), "plain": "x"})
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"missing":  "missing: does not exist",
		"dangling": `dangling: is a link to "nowhere", which does not exist`,
		".":        ".: is a directory, not a file",
		"large":    "large: is over 16 MiB, more than one file may hold",
		"plain/x":  "plain/x: cannot be read: not a directory",
	} {
		c, err := Read(path)
		if err == nil || err.Error() != want {
			t.Errorf("Read(%s) gives %v, want %s", path, err, want)
		}
		if c.Path != path || len(c.Sources.Paths) == 0 {
			t.Errorf("Read(%s) gives %+v", path, c)
		}
	}
}

func TestA_file_that_is_something_else_does_not_flood(t *testing.T) {
	write(t, map[string]string{"lsmtpd.yaml": strings.Repeat("a: b\n", 1500)})
	_, err := Read("lsmtpd.yaml")
	faults, ok := err.(Faults)
	if !ok || len(faults) != maxFaults+1 {
		t.Fatalf("%d faults", len(faults))
	}
	if got := faults[maxFaults].String(); got != "lsmtpd.yaml: and 500 more: mend these first" {
		t.Error(got)
	}
}
