package e2e

import (
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

const goodbye = "421 4.3.2 Service not available, closing"

func TestSIGTERM_under_load_takes_no_new_session_ends_idle_ones_finishes_mails_and_loses_nothing(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := start(t, url, config(listener("in", q.Name)))
	addr := d.Addr(t, "in")
	idle := smtptest.Open(t, addr)
	envelope, content := smtptest.Open(t, addr), smtptest.Open(t, addr)
	for _, c := range []*smtptest.Conn{envelope, content} {
		if r := c.Do("MAIL FROM:<ann@client.example>"); r.Code() != 250 {
			t.Fatal(r)
		}
	}
	content.Do("RCPT TO:<bob@example.com>")
	content.Do("DATA")
	content.Send("Subject: half")

	l := newLedger()
	r := l.begin(t, load{targets: []target{{addr, q}}, sessions: 30, breaks: true})
	l.await(t, 200)
	d.Signal(t, syscall.SIGTERM)
	idle.Want(goodbye)
	idle.WantEnd()
	eventually(t, "nobody listens any more", func() bool { return refusesConnections(addr) })
	r.wait()

	envelope.Do("RCPT TO:<bob@example.com>")
	envelope.Send("DATA\r\n")
	envelope.Want("354 End data with <CR><LF>.<CR><LF>")
	envelope.Send(letter + ".\r\n")
	content.Send(" a letter\r\n\r\nThe rest.\r\n.\r\n")
	for _, c := range []*smtptest.Conn{envelope, content} {
		if r := c.Reply(); r.Code() != 250 {
			t.Errorf("a mail under way is answered %q", r)
		}
		c.Want(goodbye)
		c.WantEnd()
	}
	if code := d.ExitCode(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if files := spooled(t, d); len(files) > 0 {
		t.Errorf("%d mails are spooled, and the broker was there", len(files))
	}
	if n := drainExtra(t, l, q); n != 2 {
		t.Errorf("%d mails arrived of the two that were under way", n)
	}
	if l.anyMissing() {
		t.Errorf("lost: %s", l.lost())
	}
	if n := l.judge(t); n > 0 {
		t.Errorf("%d mails arrived twice", n)
	}
}

// drainExtra empties q into l and returns how many mails were none of l's.
func drainExtra(t *testing.T, l *ledger, q *rabbit.Inbox) (extra int) {
	t.Helper()
	for _, m := range rabbit.Drain(t, q, rabbit.Depth(t, q), patience) {
		mail, err := mailOf(&m)
		must(t, err)
		if content, _ := withoutReceived(mail); ledgerKey(content) == "" {
			extra++
			continue
		}
		l.arrive(q.Name, &m)
	}
	return extra
}

func TestA_second_SIGTERM_cuts_at_once_and_loses_nothing_that_got_250(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	const drain = 10 * time.Minute
	d := start(t, url, "drain_timeout: "+drain.String()+"\n"+config(listener("in", q.Name)))
	addr := d.Addr(t, "in")
	stuck := smtptest.Open(t, addr)
	for _, line := range []string{"MAIL FROM:<ann@client.example>", "RCPT TO:<bob@example.com>", "DATA"} {
		stuck.Do(line)
	}
	l := newLedger()
	r := l.begin(t, load{targets: []target{{addr, q}}, sessions: 30, breaks: true})
	l.await(t, 200)
	proxy.Freeze() // what is under way now is in doubt
	d.Signal(t, syscall.SIGTERM)
	d.Await(t, "it stops", 0, says("stopping"))
	eventually(t, "nobody listens any more", func() bool { return refusesConnections(addr) })
	select {
	case <-d.Done():
		t.Fatal("it ended with a mail under way")
	default:
	}
	d.Signal(t, syscall.SIGTERM)
	if code := d.ExitCode(t); code != 0 { // it waits for a minute at most, far less than the drain
		t.Errorf("exit status %d", code)
	}
	r.wait()
	proxy.Thaw()
	d.Restart(t)
	l.reckon(t, d, q)
}

func TestA_daemon_that_is_stopping_refuses_a_reload_and_says_why(t *testing.T) {
	t.Parallel()
	d := startReloadable(t, rabbit.Shared(t).URL(), config(listener("in", "nowhere")))
	c := smtptest.Open(t, d.Addr(t, "in"))
	c.Do("MAIL FROM:<ann@client.example>")
	d.Signal(t, syscall.SIGTERM)
	d.Await(t, "it stops", 0, says("stopping"))
	if out, code := d.command(t, "reload"); code != 2 || out != "lsmtpd reload: the daemon is stopping\n" {
		t.Errorf("exit status %d: %s", code, out)
	}
	c.Do("RSET")
	if code := d.ExitCode(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestSIGTERM_while_the_broker_is_silent_spools_what_is_not_confirmed_within_the_grace(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	d := start(t, url, "drain_timeout: 1s\n"+withAMQP(config(listener("in", q.Name)), "confirm_timeout: 10m"))
	deliver(t, d.Addr(t, "in"), "ann@client.example", "warm@up.example")
	proxy.Freeze()
	c := smtptest.Open(t, d.Addr(t, "in"))
	for _, line := range []string{"MAIL FROM:<ann@client.example>", "RCPT TO:<bob@example.com>", "DATA"} {
		c.Do(line)
	}
	c.Send(letter + ".\r\n")
	if code := d.Stop(t); code != 0 { // it waits for a minute at most, far less than the confirm timeout
		t.Errorf("exit status %d", code)
	}
	if n := len(spooled(t, d)); n != 1 {
		t.Errorf("%d files in the spool, want the one mail that the broker did not confirm", n)
	}
	proxy.Thaw()
	d.Restart(t)
	rabbit.Drain(t, q, 2, patience)
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
}
