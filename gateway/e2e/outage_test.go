package e2e

import (
	"fmt"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

// aboutBroker are the lines on the state of the broker, in short.
func aboutBroker(d *daemon.Daemon) []string {
	var lines []string
	for _, l := range d.Lines(0) {
		if msg := l.Field("msg"); strings.Contains(strings.ToLower(msg), "broker") {
			state, _, _ := strings.Cut(msg, ":")
			lines = append(lines, l.Field("level")+" "+state)
		}
	}
	return lines
}

func wantStates(t *testing.T, d *daemon.Daemon, want ...string) {
	t.Helper()
	if got := aboutBroker(d); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log says of the broker:\n%q\nwant a line a change:\n%q", got, want)
	}
}

// TestA_broker_that_is_away_at_start goes on with the node that came at last: starting one is what takes the time.
func TestA_broker_that_is_away_at_start_or_blocks_later_costs_no_mail_and_a_line_a_change(t *testing.T) {
	t.Parallel()
	port, err := faultnet.Port()
	must(t, err)
	const exchange = "late"
	d := startAway(t, fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", port), withAMQP(config(listener("in", exchange)), `confirm_timeout: 10m, topology: {
    exchanges: [{name: late, type: fanout}], queues: [{name: late}], bindings: [{exchange: late, queue: late}]}`))
	wantStates(t, d, "WARN broker away")
	in := target{d.Addr(t, "in"), &rabbit.Inbox{Name: exchange}}
	l := newLedger()
	l.begin(t, load{targets: []target{in}, sessions: 10, mails: 10}).wait()
	if n := len(spooled(t, d)); n != 100 {
		t.Errorf("%d mails are spooled of 100", n)
	}

	node := rabbit.New(t, rabbit.Options{Port: port})
	in.queue.URL = node.URL()
	d.Await(t, "the broker is there", 0, says("broker connected"))
	l.collect(t, []*rabbit.Inbox{in.queue})
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
	wantStates(t, d, "WARN broker away", "INFO broker connected") // and not a line for each attempt

	must(t, node.Alarm(t.Context(), true))
	l.begin(t, load{targets: []target{in}, sessions: 10, mails: 10}).wait() // none is held until the confirm timeout
	if n := len(spooled(t, d)); n != 100 {
		t.Errorf("%d mails are spooled of 100", n)
	}
	must(t, node.Alarm(t.Context(), false))
	d.Await(t, "the broker takes mail again", 0, says("broker unblocked"))
	if n := l.reckon(t, d, in.queue); n > 0 {
		t.Errorf("%d mails arrived twice: what the broker confirmed late was published again", n)
	}
	wantStates(t, d, "WARN broker away", "INFO broker connected", "WARN broker blocked", "INFO broker unblocked")
}

func TestA_broker_that_accepts_and_stays_silent_at_start_holds_up_nobody(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	proxy.Freeze()
	d := startAway(t, url, withAMQP(config(listener("in", q.Name)), "connect_timeout: 1s"))
	l := newLedger()
	l.begin(t, load{targets: []target{{d.Addr(t, "in"), q}}, sessions: 5, mails: 5}).wait()
	if n := len(spooled(t, d)); n != 25 {
		t.Errorf("%d mails are spooled of 25", n)
	}
	proxy.Thaw()
	if n := l.reckon(t, d, q); n > 0 {
		t.Errorf("%d mails arrived twice", n)
	}
}

func TestMail_for_a_missing_exchange_is_spooled_until_it_is_made_and_no_other_listener_notices(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q, later := rabbit.Queue(t, url), rabbit.Queue(t, url)
	ch := channel(t, url)
	must(t, ch.ExchangeDelete(later.Name, false, false))
	d := start(t, url, config(
		listener("good", q.Name),
		listener("bad", later.Name),
		listener("strict", later.Name, "on_unroutable: reject"),
	))
	l := newLedger()
	good := l.begin(t, load{targets: []target{{d.Addr(t, "good"), q}}, sessions: 5})
	l.await(t, 20)
	l.begin(t, load{targets: []target{{d.Addr(t, "bad"), later}}, sessions: 5, mails: 4}).wait()
	if n := len(spooled(t, d)); n != 20 {
		t.Errorf("%d mails are spooled of 20", n)
	}
	if r := smtptest.Open(t, d.Addr(t, "strict")).SendMail("", []string{"bob@example.com"}, letter); r != "550 5.1.1 Nobody takes mail for this recipient" {
		t.Errorf("where the operator wants such mail rejected the answer is %q", r)
	}
	l.await(t, l.count()+20)
	good.stop()
	if n := len(said(d, "exchange unusable: mail for it is not published until it works")); n != 1 {
		t.Errorf("the log says %d times that the exchange is missing", n)
	}
	for _, line := range said(d, "accepted") {
		if line.Field("listener") == "good" && line.Field("spooled") != "" {
			t.Errorf("mail of a listener whose exchange works is spooled: %s", line.Text)
		}
	}

	must(t, ch.ExchangeDeclare(later.Name, "topic", true, false, false, false, nil))
	must(t, ch.QueueBind(later.Name, "#", later.Name, false, nil))
	l.reckon(t, d, q, later)
}

func TestA_connection_to_the_broker_that_is_reset_again_and_again_loses_nothing_and_refuses_nobody(t *testing.T) {
	t.Parallel()
	flapping(t, 8, 100)
}

// flapping resets the connection to the broker again and again, each time after so many more mails.
func flapping(t *testing.T, times, mails int) {
	node := rabbit.Shared(t)
	q, other := rabbit.Queue(t, node.URL()), rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	d := start(t, url, config(listener("json", q.Name), listener("raw", other.Name, "format: raw")))
	l := newLedger()
	r := l.begin(t, load{targets: []target{{d.Addr(t, "json"), q}, {d.Addr(t, "raw"), other}}, sessions: 30})
	last := -1
	for range times {
		last = d.Await(t, "the broker is there", last+1, says("broker connected")).Index
		l.await(t, l.count()+mails)
		proxy.Cut()
	}
	d.Await(t, "the broker is there", last+1, says("broker connected"))
	l.await(t, l.count()+mails)
	r.stop()
	l.reckon(t, d, q, other)
}
