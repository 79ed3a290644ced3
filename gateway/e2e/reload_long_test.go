package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes/reload"
)

func TestReloads_leave_no_memory_no_descriptors_and_no_goroutines_behind(t *testing.T) {
	t.Parallel()
	accumulating(t, 150)
}

func TestSoak_2000_reloads_leave_nothing_behind(t *testing.T) {
	soak(t)
	accumulating(t, 2000)
}

// accumulating reloads so often, with clients that come and go, listeners that come and go, and now and then another spool and
// another connection to the broker. A quarter of it warms up; after the rest the process must need what it needed then.
func accumulating(t *testing.T, reloads int) {
	url := rabbit.Shared(t).URL()
	queues := []*rabbit.Inbox{rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url)}
	random := rand.New(rand.NewPCG(2, 2))
	version := func(i int) string {
		c := comings(random, i, queues)
		if i%20 >= 10 {
			c = strings.Replace(c, `{{.Dir}}/spool"`, `{{.Dir}}/spool2"`, 1)
		}
		if i%50 >= 25 {
			c = withAMQP(c, "heartbeat: 20s")
		}
		return c
	}
	d := startReloadable(t, url, version(0))
	var targets []target
	for n, q := range queues {
		targets = append(targets, target{d.Addr(t, fmt.Sprintf("stays%d", n)), q})
	}
	l := newLedger()
	v := l.visit(t, 8, targets)
	i := 0
	run := func(until int) {
		for ; i < until; i++ {
			d.apply(version(i + 1))
		}
	}
	// rest is the least that the process needs when nothing goes on.
	rest := func() gateway.ProcessStatus {
		d.apply(config(listener("in", queues[0].Name)))
		eventually(t, "what was removed is gone", func() bool {
			s := d.status()
			return len(s.Draining) == 0 && len(s.Spools) == 1 && s.Listeners[0].Sessions == 0
		})
		least := d.status().Process
		least.Heap = 0
		seen := map[uint64]bool{}
		eventually(t, "three garbage collections find nobody at work", func() bool {
			for range 100 { // each status is garbage, and some of it makes a collection
				p := d.status().Process
				seen[p.Heap] = true
				least.Heap, least.Goroutines, least.Descriptors = p.Heap, min(least.Goroutines, p.Goroutines), min(least.Descriptors, p.Descriptors)
			}
			return len(seen) > 3
		})
		return least
	}
	run(reloads / 4)
	v.stop()
	before := rest()
	d.apply(version(i))
	v = l.visit(t, 8, targets)
	run(reloads)
	v.stop()
	after := rest()
	t.Logf("after %d reloads %+v, after %d %+v, %d mails meanwhile", reloads/4, before, reloads, after, l.count())
	if after.Goroutines > before.Goroutines+2 || after.Descriptors > before.Descriptors+2 || after.Heap > before.Heap+before.Heap/4+1<<20 {
		t.Errorf("after %d reloads %+v, after %d %+v", reloads/4, before, reloads, after)
	}
	l.reckonReloaded(t, d, queues...)
}

func TestA_storm_of_hangups_ends_no_start_and_no_stop(t *testing.T) {
	t.Parallel()
	storms(t, 5)
}

func TestSoak_fifty_storms_of_hangups(t *testing.T) {
	soak(t)
	storms(t, 50)
}

// storms sends SIGHUP each millisecond from the first octet of the log until the daemon listens, and from SIGTERM until it ends.
func storms(t *testing.T, rounds int) {
	url := rabbit.Shared(t).URL()
	for range rounds {
		d := daemon.Run(t, options(t, url, config(listener("in", "nowhere"))))
		d.Await(t, "it says something", 0, func(daemon.Line) bool { return true })
		ready := make(chan struct{})
		go func() {
			defer close(ready)
			d.Await(t, "it listens", 0, says("listening"))
		}()
		hangups(d, ready)
		d.Signal(t, syscall.SIGTERM)
		hangups(d, d.Done())
		if code := d.ExitCode(t); code != 0 {
			t.Fatalf("exit status %d", code)
		}
		if strings.Contains(d.Text(), "panic") {
			t.Fatal(d.Text())
		}
	}
}

// hangups sends SIGHUP each millisecond until enough is closed. The process may have ended before the last one.
func hangups(d *daemon.Daemon, enough <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-enough:
			return
		case <-tick.C:
			_ = syscall.Kill(d.Pid(), syscall.SIGHUP)
		}
	}
}

func TestA_broker_that_is_blocked_or_down_holds_no_reload_up(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	// The long heartbeat leaves it to the test alone when the frozen broker comes back.
	version := func(key string) string {
		return withAMQP(config(listener("in", q.Name, "routing_key: "+key)), "heartbeat: 10m")
	}
	d := startReloadable(t, url, version("first"))
	v, l := (*visits)(nil), newLedger()
	visit := func() { v = l.visit(t, 4, []target{{d.Addr(t, "in"), q}}) }
	visit()
	l.await(t, 20)
	for _, away := range []struct {
		name  string
		leave func()
		come  func()
	}{
		{name: "frozen", leave: proxy.Freeze, come: proxy.Thaw},
		{name: "down", leave: func() { must(t, proxy.Refuse(true)); proxy.Cut() }, come: func() { must(t, proxy.Refuse(false)) }},
	} {
		away.leave()
		d.apply(version(away.name)) // it has a minute
		away.come()
	}
	v.stop()
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d.Daemon)) == 0 })
	l.reckon(t, d.Daemon, q) // a mail in doubt may come twice
}

func TestAnother_broker_takes_over_and_no_mail_is_lost_and_one_that_does_not_answer_is_refused(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	d := startReloadable(t, node.URL(), withAMQP(config(listener("in", q.Name)), "connect_timeout: 10m"))
	l := newLedger()
	v := l.visit(t, 8, []target{{d.Addr(t, "in"), q}})
	l.await(t, 50)
	original := d.content()
	for range 5 { // by another way to the same broker, and back
		other, _ := proxied(t, node)
		overwrite(t, d.ConfigPath(), strings.Replace(original, node.URL(), other, 1))
		if r := d.reload(); r.Result != reload.Applied {
			t.Fatal(r)
		}
		if got, want := d.status().Broker.Broker, brokerAddr(other); got != want {
			t.Errorf("connected to %s, want %s", got, want)
		}
		l.await(t, l.count()+20)
	}
	silent, err := faultnet.NewProxy(node.Addr())
	must(t, err)
	t.Cleanup(func() { silent.Close() })
	silent.Freeze()
	before := d.status()
	overwrite(t, d.ConfigPath(), strings.NewReplacer(node.URL(), "amqp://guest:guest@"+silent.Addr()+"/", "connect_timeout: 10m", "connect_timeout: 1s").Replace(original))
	r := d.reload() // it has a minute
	want := fmt.Sprintf("amqp.urls: broker %s takes the connection and did not answer within 1s (the connection in use stays)", silent.Addr())
	if r.Result != reload.Rejected || len(r.Errors) != 1 || !strings.HasPrefix(r.Errors[0], d.ConfigPath()+":") || !strings.HasSuffix(r.Errors[0], want) {
		t.Errorf("report %s\nwant the error %s", r, want)
	}
	if after := d.status(); after.Broker.Broker != before.Broker.Broker || after.Config.Generation != before.Config.Generation {
		t.Errorf("status %+v\nbefore %+v", after, before)
	}
	l.await(t, l.count()+20)
	v.stop()
	l.reckonReloaded(t, d, q)
}

// brokerAddr is the host:port of an AMQP URL of proxied's.
func brokerAddr(url string) string {
	_, addr, _ := strings.Cut(strings.TrimSuffix(url, "/"), "@")
	return addr
}

// TestA_write_that_is_cut has a writer that truncates the file, writes as far as a random cut, and goes on much later.
func TestA_write_that_is_cut_never_takes_a_listener_away(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	d := startReloadable(t, url, config(listener("one", "nowhere"), listener("two", "nowhere"), listener("three", "nowhere")))
	original := d.content()
	random := rand.New(rand.NewPCG(3, 3))
	for i := range 20 {
		next := strings.Replace(original, "hostname: mx.example.org", fmt.Sprintf("hostname: mx%d.example.org", i), 1)
		cut := random.IntN(len(next))
		f, err := os.OpenFile(d.ConfigPath(), os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		_, err = f.WriteString(next[:cut])
		must(t, err)
		// The reader may find this half; the other half comes when it has had the time for that, or at once.
		if i%2 == 0 {
			d.Signal(t, syscall.SIGHUP)
		}
		_, err = f.WriteString(next[cut:])
		must(t, err)
		must(t, f.Close())
		eventually(t, "the whole is in force", func() bool {
			reports := said(d.Daemon, "configuration applied")
			return len(reports) > 0 && strings.Contains(reports[len(reports)-1].Text, fmt.Sprintf("mx%d.example.org", i))
		})
	}
	if gone := said(d.Daemon, "listener removed"); gone != nil {
		t.Errorf("removed meanwhile: %v", gone)
	}
	d.status()
}
