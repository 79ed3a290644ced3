package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// check runs "lsmtpd check --broker" on a file.
func check(t *testing.T, content string) (status int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lsmtpd.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	status = p.dispatch([]string{"check", "--broker", "-c", path})
	return status, out.String(), strings.ReplaceAll(errs.String(), filepath.Dir(path)+"/", "")
}

func TestCheck_asks_the_broker_for_every_way_that_mail_can_go(t *testing.T) {
	url := rabbit.Shared(t).URL()
	inbox := rabbit.Queue(t, url)
	file := fmt.Sprintf(`amqp:
  urls: [%q]
  max_message_size: 1MiB
  topology:
    exchanges: [{name: %[2]q, type: topic}]
    queues: [{name: %[2]q}]
    bindings: [{exchange: %[2]q, queue: %[2]q, routing_key: "a.*"}]
spool: {dir: spool}
listeners:
  - name: inbound
    address: 127.0.0.1:2525
    exchange: %[2]q
    routing_key: a.b
    format: raw
    routes:
      - {name: gone, match: {recipient: gone.example}, exchange: lsmtpd-no-such-exchange}
      - {match: {recipient: queue.example}, exchange: "", routing_key: %[2]q}
      - {match: {recipient: none.example}, exchange: "", routing_key: lsmtpd-no-such-queue}
      - {match: {recipient: other.example}, exchange: amq.direct, routing_key: "{recipient.local}"}
`, url, inbox.Name)
	status, stdout, stderr := check(t, file)
	for _, want := range []string{
		`(default) IN "a.b" ok, amqp.topology routes it to NAME`,
		`gone "lsmtpd-no-such-exchange" "a.b" NOT_FOUND - no exchange 'lsmtpd-no-such-exchange' in vhost '/'`,
		`#2 "" IN ok, its queue is there`,
		`#3 "" "lsmtpd-no-such-queue" NOT_FOUND - no queue 'lsmtpd-no-such-queue' in vhost '/'`,
		`#4 "amq.direct" {…} ok, its bindings are not in amqp.topology`,
	} {
		want = strings.NewReplacer("IN", fmt.Sprintf("%q", inbox.Name), "NAME", inbox.Name).Replace(want)
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), want) {
			t.Errorf("not told: %s", want)
		}
	}
	wantErr := []string{
		"warning: lsmtpd.yaml:10:5: listeners[0].size_limit: is more than amqp.max_message_size or limits.memory leaves",
		"lsmtpd.yaml:16:66: listeners[0].routes[0].exchange: NOT_FOUND",
		"lsmtpd.yaml:18:54: listeners[0].routes[2].exchange: NOT_FOUND",
	}
	for _, want := range wantErr {
		if !strings.Contains(stderr, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if status != exitFailed || t.Failed() {
		t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
	}
}

func TestCheck_tells_of_a_broker_that_is_not_there_or_takes_less_than_the_file_says(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Exchange("locked", amqptest.Forbidden)
	file := func(exchange string) string {
		return fmt.Sprintf("amqp: {urls: [%q]}\nspool: {dir: spool}\nlisteners: [{name: a, address: 127.0.0.1:2525, exchange: %s}]\n", broker.URL(), exchange)
	}
	if status, stdout, stderr := check(t, file("fine")); status != exitDone {
		t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := check(t, file("locked")); status != exitFailed || !strings.Contains(stderr, "access to exchange 'locked'") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
	if slices.ContainsFunc(broker.Declared(), func(s string) bool { return !strings.HasPrefix(s, "passive ") }) || len(broker.Published()) > 0 {
		t.Errorf("declared %v and published %d messages", broker.Declared(), len(broker.Published()))
	}
	broker.Refuse(true)
	if status, _, stderr := check(t, file("fine")); status != exitFailed || !strings.Contains(stderr, "connection refused") || strings.Contains(stderr, "guest") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
}

func TestCheck_tries_every_URL_and_warns_of_those_that_lead_nowhere_while_another_answers(t *testing.T) {
	broker, patient := amqptest.Start(t), amqptest.Start(t)
	patient.Freeze() // until all have come
	broker.Require(amqptest.Login{User: "guest", Password: "s3cret"})
	good := strings.Replace(broker.URL(), ":guest@", ":s3cret@", 1)
	file := func(urls ...string) string {
		return fmt.Sprintf("amqp:\n  connect_timeout: 20s\n  urls:\n  - %s\nspool: {dir: spool}\nlisteners: [{name: a, address: 127.0.0.1:2525, exchange: x}]\n",
			strings.Join(urls, "\n  - "))
	}
	urls := []string{broker.URL(), good, "amqp://127.0.0.1:1/"}
	for range 20 {
		urls = append(urls, patient.URL())
	}
	urls = append(urls, good)
	come := make(chan struct{})
	go func() {
		patient.Await("all are tried at once", func() bool { return patient.Attempts() == 20 })
		patient.Thaw()
		close(come)
	}()
	status, stdout, stderr := check(t, file(urls...))
	<-come
	for _, want := range []string{
		"warning: lsmtpd.yaml:4:5: amqp.urls[0]: broker " + broker.Addr() + " refuses the user or the password\n",
		"warning: lsmtpd.yaml:6:5: amqp.urls[2]: broker 127.0.0.1:1 is not there: connection refused\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if status != exitDone || strings.Contains(stderr, "s3cret") || strings.Count(stderr, "amqp.urls[") != 2 || t.Failed() {
		t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
	}

	status, _, stderr = check(t, file(broker.URL(), "amqp://127.0.0.1:1/"))
	want := "lsmtpd.yaml:4:5: amqp.urls[0]: broker " + broker.Addr() + " refuses the user or the password\n" +
		"lsmtpd.yaml:5:5: amqp.urls[1]: broker 127.0.0.1:1 is not there: connection refused\n"
	if status != exitFailed || !strings.HasSuffix("\n"+stderr, "\n"+want) {
		t.Errorf("exit status %d\n%swant\n%s", status, stderr, want)
	}
}

func TestCheck_tells_at_once_of_a_broker_that_takes_no_mail_now_and_what_it_answered(t *testing.T) {
	node := rabbit.New(t, rabbit.Options{})
	inbox := rabbit.Queue(t, node.URL())
	if err := node.Alarm(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	double := amqptest.Start(t)
	double.Exchange("gone", amqptest.Missing)
	double.Block("low on memory")
	for name, url := range map[string]string{"the double": double.URL(), "RabbitMQ": node.URL()} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := check(t, fmt.Sprintf(`amqp: {urls: [%q]}
spool: {dir: spool}
listeners:
- {name: a, address: 127.0.0.1:2525, exchange: amq.topic, routing_key: k, routes: [{match: {user: u}, exchange: gone}, {match: {user: v}, exchange: "", routing_key: %q}]}
`, url, inbox.Name))
			// A broker that answers the first question, after which it says that it is blocked, may be heard in either order.
			for _, want := range []string{
				`"amq.topic" "k" there, but not asked whether it may be written to, its bindings are not in amqp.topology`,
				`#1 "gone" "k" NOT_FOUND - no exchange 'gone' in vhost '/'`,
				`#2 "" "` + inbox.Name + `" (there, but not asked whether it may be written to|ok), its queue is there`,
			} {
				if !regexp.MustCompile(want).MatchString(strings.Join(strings.Fields(stdout), " ")) {
					t.Errorf("not told: %s", want)
				}
			}
			want := regexp.QuoteMeta("lsmtpd.yaml:1:15: amqp.urls[0]: broker "+strings.TrimSuffix(strings.TrimPrefix(url, "amqp://guest:guest@"), "/")) +
				" blocked: low on memory: it was not asked whether (2 exchanges|1 exchange) may be written to, nor what it takes of amqp.max_message_size\n"
			if status != exitFailed || !regexp.MustCompile(want).MatchString(stderr) || t.Failed() {
				t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
			}
		})
	}
}

func TestA_topology_routes_as_the_broker_would(t *testing.T) {
	for _, c := range []struct {
		pattern, key string
		takes        bool
	}{
		{"#", "", true}, {"#", "a.b", true}, {"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"a.#", "a", true},
		{"a.#.d", "a.b.c.d", true}, {"*.b", "a.c", false}, {"a.b", "a.b", true}, {"a.b", "a", false}, {"*", "", true},
		{"mail.#", "mail.\x00", true}, {"mail.*.x", "mail.\x00", true}, {"other.#", "mail.\x00", false}, {"a", "\x00.b", false},
		{"mail-a", "mail-\x00", true}, {"post-a", "mail-\x00", false}, {"*.x", "mail-\x00", true}, {"post.x", "mail-\x00", false}, {"mail-a.x", "mail-\x00", true},
		{"a.x-b", "a.\x00-b", true}, {"a.*.x-b", "a.\x00-b", true}, {"a.x", "a.\x00-b", false}, {"#.x-b", "mail-\x00-b", true}, {"#.x-c", "mail-\x00-b", false},
		{"#.c", "a\x00.c", true}, {"#.post", "mail-\x00", true}, {"mail-1.2-x", "mail-\x00-\x00", true}, {"mail-1.2x", "mail-\x00-\x00", false}, {"mail.2", "mail-\x00-\x00", false},
		{"*", "mail-\x00", true}, {"*.*", "a.\x00", true}, {"*.*", "\x00.a.b", false}, {"#", "\x00.a.b", true},
	} {
		topology := config.Topology{
			Exchanges: []config.Exchange{{Name: "x", Type: "topic"}},
			Bindings:  []config.Binding{{Exchange: "x", Queue: "q", RoutingKey: c.pattern}},
		}
		if got := len(first(boundBy(topology, "x", c.key))) > 0; got != c.takes {
			t.Errorf("%q takes %q: %v", c.pattern, c.key, got)
		}
	}
}

func first(queues []string, _ bool) []string { return queues }

func TestA_direct_exchange_takes_a_key_only_as_it_is(t *testing.T) {
	for _, c := range []struct {
		binding, key string
		takes        bool
	}{
		{"a.b", "a.b", true}, {"a.*", "a.b", false}, {"#", "a.b", false}, {"#", "#", true}, {"a.*", "a.*", true}, {"a", "a.b", false}, {"a.b", "a", false},
		{"mail.*", "mail.\x00", true}, // as the key "mail.*"
		{"mail.#.x", "mail.\x00.y", false}, {"*.x", "mail.\x00", false}, {"mail.a.b", "mail.\x00", true}, {"mail.", "mail.\x00", true}, {"other.a", "mail.\x00", false},
		{"a.b.c", "\x00.b.\x00", true}, {"a.x.c", "\x00.b.\x00", false}, {"a.b.b.c", "\x00.b.c", true}, {"pre-a", "pre-\x00", true}, {"post-a", "pre-\x00", false},
	} {
		topology := config.Topology{
			Exchanges: []config.Exchange{{Name: "x", Type: "direct"}},
			Bindings:  []config.Binding{{Exchange: "x", Queue: "q", RoutingKey: c.binding}},
		}
		if got := len(first(boundBy(topology, "x", c.key))) > 0; got != c.takes {
			t.Errorf("%q takes %q: %v", c.binding, c.key, got)
		}
	}
}

func TestA_topology_says_nothing_of_keys_where_it_has_no_bindings_or_they_are_of_another_kind(t *testing.T) {
	at := func(kind string, bindings ...config.Binding) config.Topology {
		return config.Topology{Exchanges: []config.Exchange{{Name: "x", Type: kind}}, Bindings: bindings}
	}
	for _, c := range []struct {
		name     string
		topology config.Topology
		known    bool
	}{
		{"bindings made elsewhere", at("topic", config.Binding{Exchange: "y", Queue: "q", RoutingKey: "#"}), false},
		{"no bindings at all", at("fanout"), false},
		{"a plugin's exchange", at("x-consistent-hash", config.Binding{Exchange: "x", Queue: "q", RoutingKey: "1"}), false},
		{"by headers", at("headers", config.Binding{Exchange: "x", Queue: "q"}), false},
		{"a binding that takes other keys", at("topic", config.Binding{Exchange: "x", Queue: "q", RoutingKey: "other"}), true},
	} {
		if queues, known := boundBy(c.topology, "x", "k"); known != c.known || len(queues) > 0 {
			t.Errorf("%s: %v, known %v", c.name, queues, known)
		}
	}
}

func TestCheck_knows_what_the_topology_will_declare_and_what_the_broker_has_otherwise(t *testing.T) {
	url := rabbit.Shared(t).URL()
	inbox := rabbit.Queue(t, url)
	file := fmt.Sprintf(`amqp:
  urls: [%q]
  topology:
    exchanges: [{name: lsmtpd-not-yet, type: topic}]
    queues: [{name: lsmtpd-not-yet}, {name: %q, durable: true, arguments: {x-max-length: 7}}]
    bindings: [{exchange: lsmtpd-not-yet, queue: lsmtpd-not-yet, routing_key: "mail.#"}]
spool: {dir: spool}
listeners:
  - name: inbound
    address: 127.0.0.1:2525
    exchange: lsmtpd-not-yet
    routing_key: "mail.{recipient.domain}"
    routes:
      - {match: {recipient: none.example}, routing_key: other}
`, url, inbox.Name)
	for range 2 { // the first created nothing
		status, stdout, stderr := check(t, file)
		told := strings.Join(strings.Fields(stdout+stderr), " ")
		for _, want := range []string{
			"declared by amqp.topology when lsmtpd starts, amqp.topology routes such keys to lsmtpd-not-yet",
			"no binding in amqp.topology takes its key: where no other does, its mail is returned", "inequivalent arg 'x-max-length'",
		} {
			if !strings.Contains(told, want) {
				t.Errorf("not told: %s", want)
			}
		}
		if status != exitFailed || strings.Contains(told, "NOT_FOUND") || t.Failed() {
			t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
		}
	}
}

func TestCheck_warns_of_a_file_system_that_has_no_room_for_the_spool(t *testing.T) {
	dir := t.TempDir()
	for minFree, want := range map[int64]int{math.MaxInt64: 1, 0: 0} {
		table := &routes.Table{Config: &config.Config{Spool: config.Spool{Dir: filepath.Join(dir, "spool"), MinFree: minFree}}}
		told := 0
		for _, w := range checkWarnings(table) {
			if strings.Contains(w.String(), "no mail is spooled until there is more room") {
				told++
			}
		}
		if told != want {
			t.Errorf("min_free %d: told %d times", minFree, told)
		}
	}
}
