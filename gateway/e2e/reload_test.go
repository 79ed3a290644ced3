package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes/reload"
)

func TestReloads_under_load_refuse_reset_lose_and_double_nothing(t *testing.T) {
	t.Parallel()
	reloading(t, 100, 4*time.Second)
}

func TestSoak_500_reloads_in_20_seconds_while_50_listeners_come_and_go(t *testing.T) {
	soak(t)
	reloading(t, 500, 20*time.Second)
}

// comings is the configuration of the worst day in its version i: four listeners that stay where they are, under changing names
// and with changing limits and keys, and some of fifty that come and go.
func comings(random *rand.Rand, i int, queues []*rabbit.Inbox) string {
	var listeners []string
	for n, q := range queues {
		listeners = append(listeners, at(fmt.Sprintf("stays%d-%d", n, i/3), fmt.Sprintf("stays%d", n), q.Name,
			fmt.Sprintf("size_limit: %d, routing_key: key%d, max_recipients: %d", 1<<20+i, i, 100+i)))
	}
	for n := range 50 {
		if random.IntN(2) == 0 {
			listeners = append(listeners, listener(fmt.Sprintf("comes%d", n), queues[0].Name))
		}
	}
	return config(listeners...)
}

func reloading(t *testing.T, reloads int, during time.Duration) {
	url := rabbit.Shared(t).URL()
	queues := []*rabbit.Inbox{rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url)}
	random := rand.New(rand.NewPCG(1, 1))
	d := startReloadable(t, url, comings(random, 0, queues))
	var targets []target
	for n, q := range queues {
		targets = append(targets, target{d.Addr(t, fmt.Sprintf("stays%d", n)), q})
	}
	l := newLedger()
	v := l.visit(t, 64, targets)
	l.await(t, 64)
	tick := time.NewTicker(during / time.Duration(reloads))
	defer tick.Stop()
	var slowest float64
	begun := time.Now()
	for i := range reloads {
		<-tick.C
		r := d.apply(comings(random, i+1, queues))
		if r.Generation != uint64(i+2) {
			t.Fatalf("generation %d after %d reloads", r.Generation, i+1)
		}
		slowest = max(slowest, r.Duration)
	}
	t.Logf("%d reloads in %v, the slowest in %.1f ms, %d mails meanwhile", reloads, time.Since(begun).Round(time.Millisecond), slowest, l.count())
	v.stop()
	if s := d.status(); s.Config.Degraded || s.Config.Reloads[reload.Command][reload.Applied] != uint64(reloads) {
		t.Errorf("status %+v", s.Config)
	}
	l.reckonReloaded(t, d, queues...)
}

func TestSaves_that_nobody_asks_about_are_few_reloads_and_the_last_is_soon_in_force(t *testing.T) {
	t.Parallel()
	saving(t, saves{n: 100, during: 4 * time.Second, apart: 250 * time.Millisecond, soon: patience})
}

func TestSoak_500_saves_in_20_seconds(t *testing.T) {
	soak(t)
	saving(t, saves{n: 500, during: 20 * time.Second, apart: 2 * time.Second, soon: 5 * time.Second})
}

// saves are so many in a time.
type saves struct {
	n      int
	during time.Duration
	apart  time.Duration // reloads: a writer that a busy machine holds up is one that is quiet, for a quarter of a second
	soon   time.Duration // the last one is in force
}

func saving(t *testing.T, s saves) {
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := startReloadable(t, url, config(listener("in", q.Name, "routing_key: version-0")))
	original := d.content()
	l := newLedger()
	v := l.visit(t, 16, []target{{d.Addr(t, "in"), q}})
	tick := time.NewTicker(s.during / time.Duration(s.n))
	defer tick.Stop()
	last, begun := "", time.Now()
	for i := range s.n {
		<-tick.C
		last = fmt.Sprintf("version-%d", i+1)
		overwrite(t, d.ConfigPath(), strings.Replace(original, "version-0", last, 1))
	}
	within(t, s.soon, "the last save", func() {
		eventually(t, "the last save is in force", func() bool {
			reports := said(d.Daemon, "configuration applied")
			return len(reports) > 0 && strings.Contains(reports[len(reports)-1].Text, `"new":"`+last+`"`)
		})
	})
	v.stop()
	got, took := d.status().Config, time.Since(begun)
	if n, most := got.Generation-1, uint64(took/s.apart)+1; n > most || got.Degraded {
		t.Errorf("%d reloads for %d saves in %v, %d at most; status %+v", n, s.n, took, most, got)
	}
	l.reckonReloaded(t, d, q)
}

func TestA_mail_under_way_is_finished_as_it_began_whatever_is_reloaded(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q, other := rabbit.Queue(t, url), rabbit.Queue(t, url)
	stays := listener("stays", other.Name)
	first := config(stays, listener("in", other.Name, fmt.Sprintf(
		`routes: [{match: {recipient: "bob@example.com"}, exchange: %q, routing_key: first, headers: {version: one}}]`, q.Name)))
	d := startReloadable(t, url, first)
	c := smtptest.Open(t, d.Addr(t, "in"))
	begin := func(c *smtptest.Conn) {
		t.Helper()
		for _, line := range []string{"MAIL FROM:<ann@client.example>", "RCPT TO:<bob@example.com>", "DATA"} {
			if r := c.Do(line); r.Code() != 250 && r.Code() != 354 {
				t.Fatalf("%s: %q", line, r)
			}
		}
	}
	begin(c)
	for i := range 18 {
		d.apply(config(stays, listener("in", other.Name, fmt.Sprintf("format: raw, size_limit: %d, routing_key: other", i+1))))
		c.Send(fmt.Sprintf("Line: %d\r\n", i))
	}
	d.apply(config(stays)) // the listener is gone
	eventually(t, "it is draining", func() bool { return len(d.status().Draining) == 1 })
	d.apply(config(stays, listener("new", other.Name)))
	c.Send("\r\nend\r\n.\r\n")
	if r := c.Reply(); r.Code() != 250 {
		t.Errorf("%q", r)
	}
	c.Want(goodbye)
	c.WantEnd()
	got := rabbit.Drain(t, q, 1, patience)[0]
	if got.RoutingKey != "first" || got.ContentType != "application/json" || got.Headers["version"] != "one" {
		t.Errorf("key %q, %s, headers %v", got.RoutingKey, got.ContentType, got.Headers)
	}
	if mail, _ := mailOf(&got); !strings.Contains(mail, "Line: 17\r\n\r\nend\r\n") {
		t.Errorf("mail %q", mail)
	}
}

func TestTwo_mails_on_one_connection_each_have_the_routes_of_their_time_and_the_size_that_was_told_holds(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q, b := rabbit.Queue(t, url), rabbit.Queue(t, url)
	d := startReloadable(t, url, config(at("a", "one", q.Name, "routing_key: first, size_limit: 4KiB"), at("b", "two", b.Name)))
	c := smtptest.Open(t, d.Addr(t, "one"))
	send := func(size int) smtptest.Reply {
		return c.SendMail("ann@client.example", []string{"bob@example.com"}, "\r\n"+strings.Repeat("x", size)+"\r\n")
	}
	key := func(q *rabbit.Inbox, want string) {
		t.Helper()
		if got := rabbit.Drain(t, q, 1, patience)[0].RoutingKey; got != want {
			t.Errorf("key %q, want %q", got, want)
		}
	}
	if r := send(1000); r.Code() != 250 {
		t.Fatal(r)
	}
	key(q, "first")
	d.apply(config(at("a", "one", q.Name, "routing_key: second, size_limit: 1KiB"), at("b", "two", b.Name)))
	if r := send(3000); r.Code() != 250 {
		t.Errorf("within the size that was told: %q", r)
	}
	key(q, "second")
	if r := send(4096); r.Code() != 552 {
		t.Errorf("over the size that was told: %q", r)
	}
	if r := smtptest.Open(t, d.Addr(t, "one")).Do("EHLO new.example"); !strings.Contains(string(r), "SIZE 1024") {
		t.Errorf("a new session is told %q", r)
	}

	d.apply(config(at("a", "two", q.Name), at("b", "one", b.Name, "routing_key: swapped")))
	if r := send(10); r.Code() != 250 {
		t.Errorf("after a swap: %q", r)
	}
	key(b, "swapped")
	d.apply(config(at("renamed", "one", b.Name, "routing_key: renamed"), at("a", "two", q.Name)))
	if r := send(10); r.Code() != 250 {
		t.Errorf("after a rename: %q", r)
	}
	key(b, "renamed")
	if r := c.Do("RSET"); r.Code() != 250 {
		t.Error(r)
	}
	d.apply(config(at("a", "two", q.Name)))
	c.Want(goodbye)
	c.WantEnd()
}

func TestTwo_listeners_that_swap_addresses_and_names_under_load_lose_nothing(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	names := []string{"a", "b", "c", "d"}
	swapped := func(i int) string {
		return config(at(names[i%4], "one", q.Name), at(names[(i+1)%4], "two", q.Name))
	}
	d := startReloadable(t, url, swapped(0))
	targets := []target{{d.Addr(t, "one"), q}, {d.Addr(t, "two"), q}}
	l := newLedger()
	stay := l.begin(t, load{targets: targets, sessions: 10, pace: 5 * time.Millisecond})
	v := l.visit(t, 10, targets)
	for i := range 50 {
		d.apply(swapped(i + 1))
	}
	stay.stop()
	v.stop()
	l.reckonReloaded(t, d, q)
}

func TestA_port_that_somebody_holds_rejects_the_whole_and_is_taken_by_itself_when_it_is_free(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := startReloadable(t, url, config(listener("in", q.Name)))
	before := steady(d.status())
	d.put(config(at("renamed", "in", q.Name), listener("more", q.Name)))
	held, err := net.Listen("tcp", d.Addr(t, "more"))
	must(t, err)
	t.Cleanup(func() { held.Close() })
	r := d.reload()
	want := fmt.Sprintf("%s:8:27: listeners[1].address: cannot listen on %s: address already in use (another program listens there: stop it, or choose another port) [listener more]", d.ConfigPath(), d.Addr(t, "more"))
	if r.Result != reload.Rejected || len(r.Errors) != 1 || r.Errors[0] != want {
		t.Errorf("report %s, want the error %s", r, want)
	}
	if after := steady(d.status()); !reflect.DeepEqual(before, after) {
		t.Errorf("status %+v\nbefore %+v", after, before)
	}
	if s := d.status().Config; !s.Degraded || len(s.Errors) != 1 {
		t.Errorf("status %+v", s)
	}
	deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")
	rabbit.Drain(t, q, 1, patience)
	must(t, held.Close())
	d.Await(t, "it is applied", 0, func(l daemon.Line) bool { // by retry, or by the watcher if the file's event was late
		return l.Field("msg") == "configuration applied" && strings.Contains(l.Text, `"generation":2`)
	})
	deliver(t, d.Addr(t, "more"), "ann@client.example", "bob@example.com")
	if s := d.status().Config; s.Degraded || s.Errors != nil || s.Generation != 2 {
		t.Errorf("status %+v", s)
	}
}

// steady is what of a status does not change by itself, or by what a rejected reload is told as.
func steady(s admin.Status) admin.Status {
	s.Broker.Exchanges = nil
	s.Process = gateway.ProcessStatus{}
	s.Config.Degraded, s.Config.Errors, s.Config.Reloads = false, nil, nil
	return s
}

func TestAn_admin_socket_whose_file_was_removed_is_made_again_by_a_hangup(t *testing.T) {
	t.Parallel()
	d := startReloadable(t, rabbit.Shared(t).URL(), config(listener("in", "nowhere")))
	must(t, os.Remove(d.client.Socket))
	d.Signal(t, syscall.SIGHUP)
	d.Await(t, "it says so", 0, func(l daemon.Line) bool {
		return l.Field("msg") == "configuration unchanged" && strings.Contains(l.Text, "the file of the admin socket "+d.client.Socket+" was gone")
	})
	if s := d.status(); s.Config.Generation != 1 || s.Config.Degraded {
		t.Errorf("status %+v", s)
	}
}
