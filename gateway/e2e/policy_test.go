package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"

	amqp "github.com/rabbitmq/amqp091-go"
)

// nobodys declares an exchange that routes to no queue.
func nobodys(t testing.TB, url string) string {
	t.Helper()
	q := rabbit.Queue(t, url)
	must(t, channel(t, url).QueueUnbind(q.Name, "#", q.Name, nil))
	return q.Name
}

func TestOne_mail_of_which_the_broker_takes_a_part_is_accepted_whatever_the_policy(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	good, dead, late := rabbit.Queue(t, url), nobodys(t, url), nobodys(t, url)
	routes := fmt.Sprintf("routes: [{match: {recipient: dead.example}, exchange: %q}, {match: {recipient: late.example}, exchange: %q}]", dead, late)
	policies := []struct {
		name   string
		answer smtptest.Reply // to a mail of which nothing is routable
	}{
		{"spool", ""},
		{"defer", "451 4.3.0 Cannot store the message now, try again later"},
		{"reject", "550 5.1.1 Nobody takes mail for this recipient"},
	}
	var listeners []string
	for _, p := range policies {
		listeners = append(listeners, listener(p.name, good.Name, routes, "on_unroutable: "+p.name))
	}
	d := start(t, url, config(listeners...))

	var kept []string
	for _, p := range policies {
		addr := d.Addr(t, p.name)
		t.Run(p.name+": one of two destinations is unroutable", func(t *testing.T) {
			id := deliver(t, addr, "ann@client.example", "one@good.example", "two@late.example")
			if got := rabbit.Drain(t, good, 1, patience)[0]; got.MessageId != id {
				t.Errorf("message %s arrived of mail %s", got.MessageId, id)
			}
			kept = append(kept, inSpool(late, id, "two@late.example"))
			wantSpool(t, d, kept)
		})
		t.Run(p.name+": both destinations are unroutable", func(t *testing.T) {
			r := smtptest.Open(t, addr).SendMail("ann@client.example", []string{"one@dead.example", "two@late.example"}, letter)
			switch {
			case p.answer != "" && r != p.answer:
				t.Errorf("answer %q, want %q", r, p.answer)
			case p.answer == "" && r.Code() != 250:
				t.Errorf("answer %q, and the spool has room", r)
			case p.answer == "":
				kept = append(kept, inSpool(dead, queuedAs(r), "one@dead.example"), inSpool(late, queuedAs(r), "two@late.example"))
			}
			wantSpool(t, d, kept)
		})
	}

	ch := channel(t, url)
	for _, x := range []string{dead, late} {
		must(t, ch.QueueBind(good.Name, "#", x, false, nil)) // the operator mends it
	}
	for _, got := range rabbit.Drain(t, good, len(kept), patience) {
		if at, ok := got.Headers["lsmtpd-spooled"].(string); !ok || time.Since(mustTime(t, at)) > patience {
			t.Errorf("a spooled mail arrived with headers %v", got.Headers)
		}
		wantLetter(t, got)
	}
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
}

func mustTime(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	must(t, err)
	return at
}

func wantSpool(t *testing.T, d *daemon.Daemon, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := readSpool(t, d); !slices.Equal(got, want) {
		t.Errorf("in the spool:\n%q\nwant:\n%q", got, want)
	}
}

func TestWhile_the_broker_is_down_mail_is_spooled_or_deferred_as_the_listener_says(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	d := start(t, url, config(
		listener("spool", q.Name, fmt.Sprintf("routes: [{match: {recipient: b.example}, exchange: %q, routing_key: b}]", q.Name)),
		listener("defer", q.Name, "on_broker_failure: defer"),
		listener("reject", q.Name, "on_unroutable: reject"),
	))
	const tryLater = "451 4.3.0 Cannot store the message now, try again later"
	early := smtptest.Open(t, d.Addr(t, "defer"))
	for _, line := range []string{"MAIL FROM:<ann@client.example>", "RCPT TO:<bob@a.example>"} {
		if r := early.Do(line); r.Code() != 250 {
			t.Fatalf("%s: %s", line, r)
		}
	}

	must(t, proxy.Refuse(true))
	proxy.Cut()
	d.Await(t, "the broker is lost", 0, says("broker lost"))

	id := deliver(t, d.Addr(t, "spool"), "ann@client.example", "one@a.example", "two@b.example")
	other := deliver(t, d.Addr(t, "reject"), "ann@client.example", "three@a.example")
	wantSpool(t, d, []string{
		inSpool(q.Name, id, "one@a.example"), inSpool(q.Name, id, "two@b.example"), inSpool(q.Name, other, "three@a.example"),
	})
	if r := early.Do("DATA"); r.Code() != 354 {
		t.Fatal(r)
	}
	early.Send(letter + ".\r\n")
	early.Want(tryLater)
	early.Send("MAIL FROM:<ann@client.example>\r\n")
	early.Want(tryLater)

	must(t, proxy.Refuse(false))
	rabbit.Drain(t, q, 3, patience)
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
	early.Send("RSET\r\n")
	early.Want("250 2.0.0 Ok")
	if r := early.SendMail("ann@client.example", []string{"bob@a.example"}, letter); r.Code() != 250 {
		t.Errorf("after the outage: %q", r)
	}
	rabbit.Drain(t, q, 1, patience)
}

func TestMail_that_is_not_confirmed_in_time_is_spooled_and_a_late_confirm_takes_it_out_again(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q, returning := rabbit.Queue(t, node.URL()), nobodys(t, node.URL())
	url, proxy := proxied(t, node)
	c := withAMQP(config(
		listener("in", q.Name, fmt.Sprintf("routes: [{match: {recipient: late.example}, exchange: %q}]", returning)),
		listener("defer", q.Name, "on_broker_failure: defer"),
	), "heartbeat: 10m")
	d := startReloadable(t, url, withAMQP(c, "confirm_timeout: 10m"))
	deliver(t, d.Addr(t, "in"), "ann@client.example", "warm@up.example")
	rabbit.Drain(t, q, 1, patience)
	d.apply(withAMQP(c, "confirm_timeout: 1s")) // only now: the first mail had to be confirmed in time

	proxy.Freeze()
	slow := deliver(t, d.Addr(t, "in"), "ann@client.example", "one@a.example")
	unroutable := deliver(t, d.Addr(t, "in"), "ann@client.example", "two@late.example")
	wantSpool(t, d.Daemon, []string{inSpool(q.Name, slow, "one@a.example"), inSpool(returning, unroutable, "two@late.example")})
	if r := smtptest.Open(t, d.Addr(t, "defer")).SendMail("ann@client.example", []string{"three@a.example"}, letter); r.Code() != 451 {
		t.Errorf("with on_broker_failure: defer the answer is %q", r)
	}
	proxy.Thaw()
	eventually(t, "the file of the mail that was confirmed late is gone, and only that", func() bool {
		return slices.Equal(readSpool(t, d.Daemon), []string{inSpool(returning, unroutable, "two@late.example")})
	})
	arrived := rabbit.Drain(t, q, 2, patience) // the deferred one was published, too: its sender tries again
	if ids := []string{arrived[0].MessageId, arrived[1].MessageId}; !slices.Contains(ids, slow) {
		t.Errorf("messages %q arrived, not %s", ids, slow)
	}
	for _, m := range arrived {
		if _, replayed := m.Headers["lsmtpd-spooled"]; replayed {
			t.Errorf("message %s was published twice", m.MessageId)
		}
	}
	must(t, channel(t, node.URL()).QueueBind(q.Name, "#", returning, false, amqp.Table{}))
	if got := rabbit.Drain(t, q, 1, patience)[0]; got.MessageId != unroutable {
		t.Errorf("message %s arrived, want %s", got.MessageId, unroutable)
	}
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d.Daemon)) == 0 })
	if n := rabbit.Depth(t, q); n != 0 {
		t.Errorf("%d messages too many", n)
	}
}

func TestMail_for_a_queue_that_is_full_is_spooled_or_deferred_and_delivered_when_there_is_room(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	ch := channel(t, url)
	_, err := ch.QueueDelete(q.Name, false, false, false)
	must(t, err)
	_, err = ch.QueueDeclare(q.Name, true, false, false, false, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	must(t, err)
	must(t, ch.QueueBind(q.Name, "#", q.Name, false, nil))
	d := start(t, url, config(
		listener("spool", q.Name, "on_unroutable: reject"), // which this is not
		listener("defer", q.Name, "on_broker_failure: defer"),
	))
	first := deliver(t, d.Addr(t, "spool"), "ann@client.example", "one@a.example")
	second := deliver(t, d.Addr(t, "spool"), "ann@client.example", "two@a.example")
	wantSpool(t, d, []string{inSpool(q.Name, second, "two@a.example")})
	if r := smtptest.Open(t, d.Addr(t, "defer")).SendMail("ann@client.example", []string{"three@a.example"}, letter); r.Code() != 451 {
		t.Errorf("with on_broker_failure: defer the answer is %q", r)
	}
	got := rabbit.Drain(t, q, 2, patience)
	if ids := []string{got[0].MessageId, got[1].MessageId}; !slices.Equal(ids, []string{first, second}) {
		t.Errorf("messages %q arrived, want %q and %q", ids, first, second)
	}
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
}
