package main

import (
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/publish"
)

func TestStatus_tells_of_each_destination_whose_mail_is_not_published_and_why(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b strings.Builder
	unusableText(&b, publish.Status{
		State: publish.Connected,
		Lanes: []publish.LaneStatus{
			{Name: "live", State: publish.Connected, Queued: 2, Unconfirmed: 3, Octets: 4096},
			{Name: "bulk", State: publish.Retrying, Since: now.Add(-time.Minute), Error: "broker b:5672 is not there: connection refused"},
		},
		NotReached: []publish.UnreachedStatus{{Error: "broker a:5672 refuses the user or the password", Tried: now.Add(-time.Hour)}},
		Exchanges:  map[string]string{"z": `exchange "z": NOT_FOUND`, "a": `exchange "a": ACCESS_REFUSED`},
		Unverified: []string{"new"},
		Breakers:   []publish.BreakerStatus{{Exchange: "x", RoutingKey: "stuck", Probe: now.Add(12400 * time.Millisecond)}},
		Refused: []publish.RefusalStatus{
			{Exchange: "x", RoutingKey: "secret.#", Error: "ACCESS_REFUSED - access to topic 'secret.#'", Probe: now.Add(5 * time.Second)},
			{Exchange: "x", RoutingKey: "due", Error: "ACCESS_REFUSED", Probe: now.Add(-time.Second)},
		},
		RefusedMore: map[string]int{"x": 372},
		Topology:    []string{`declare queue "q": PRECONDITION_FAILED`},
	}, now)
	want := `        not reached when it was tried 1h0m0s ago: broker a:5672 refuses the user or the password
        lane live: 2 queued, 3 unconfirmed (4096 octets)
        lane bulk retrying since 1m0s: broker b:5672 is not there: connection refused
        exchange "a" is unusable, its mail is not published: exchange "a": ACCESS_REFUSED
        exchange "z" is unusable, its mail is not published: exchange "z": NOT_FOUND
        not verified yet: exchange ["new"]
        exchange "x" with key "stuck" does not confirm, its mail is not published: next probe in 12s
        exchange "x" refuses key "secret.#", its mail is not published: ACCESS_REFUSED - access to topic 'secret.#', next probe in 5s
        exchange "x" refuses key "due", its mail is not published: ACCESS_REFUSED, next probe in 0s
        exchange "x" refuses 372 more keys
        topology not as configured: declare queue "q": PRECONDITION_FAILED
`
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestStatus_tells_which_sockets_nobody_can_connect_to(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := admin.Status{Status: gateway.Status{
		Listeners: []gateway.ListenerStatus{
			{Name: "a", Address: "127.0.0.1:25"},
			{Name: "u", Address: "unix:/u", Unreachable: "nobody can connect to unix:/u: another file is there"},
		},
		Admin: "nobody can connect to the admin socket /a: another file is there",
	}}
	const want = "\nlistener u: nobody can connect to unix:/u: another file is there\nnobody can connect to the admin socket /a: another file is there\n"
	if got := statusText(s, now); !strings.HasSuffix(got, want) || strings.Contains(got, "listener a") {
		t.Errorf("got\n%swant at its end\n%s", got, want)
	}
}
