package gateway

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes"

	"pgregory.net/rapid"
)

func TestThe_sockets_are_those_of_the_configuration_and_a_kept_address_keeps_its_inode(t *testing.T) {
	held, err := net.Listen("tcp", port(t))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	first := port(t)
	h := newHouse(t, entry("first", first))
	others := listening(t) // the test's own
	delete(others, first)
	addresses := []string{first, "unix:" + h.dir + "/in.sock", "unix:" + h.dir + "/in2.sock"}
	for range 4 {
		addresses = append(addresses, port(t))
	}
	model := map[string]string{first: listening(t)[first]} // address in force → inode
	names := map[string]string{"first": first}
	rapid.Check(t, func(t *rapid.T) {
		wanted := rapid.SliceOfNDistinct(rapid.SampledFrom(addresses), 1, len(addresses), rapid.ID[string]).Draw(t, "addresses")
		called := rapid.Permutation([]string{"a", "b", "c", "d", "e", "f", "g"}).Draw(t, "names")
		busy := rapid.IntRange(0, 4).Draw(t, "busy") == 0
		config, now := "", map[string]string{}
		for i, address := range wanted {
			config += entry(called[i], address, "routing_key: "+called[(i+1)%7])
			now[called[i]] = address
		}
		if busy {
			config += entry("busy", held.Addr().String())
		}
		applied, err := h.apply(h.config(config))
		if busy != (err != nil) {
			t.Fatalf("busy: %v, error: %v", busy, err)
		}
		want := names
		if !busy {
			want = now
			compareActions(t, applied, names, now)
			names = now
		}
		var got map[string]string
		eventually(h.t, "the sockets are those of the configuration", func() bool { // what is gone is swept behind Apply
			got = listening(h.t)
			maps.DeleteFunc(got, func(address, _ string) bool { return others[address] != "" })
			return slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Values(want)))
		})
		for address, inode := range got {
			if was := model[address]; was != "" && was != inode {
				t.Fatalf("%s has another socket: inode %s, not %s", address, inode, was)
			}
		}
		model = got
	})
}

// compareActions holds what Apply tells against the names and addresses before and after.
func compareActions(t *rapid.T, a routes.Applied, before, after map[string]string) {
	taken := map[string]bool{} // addresses of before, of which a name is gone
	for name, address := range before {
		if after[name] == "" {
			taken[address] = true
		}
	}
	want := map[string]string{}
	renamed := map[string]bool{}
	for name, address := range after {
		switch was := before[name]; {
		case was == address:
			want[name] = routes.Kept
		case was != "":
			want[name] = routes.Rebound
		case taken[address]:
			want[name], renamed[address] = routes.Updated, true
		default:
			want[name] = routes.Added
		}
	}
	for name, address := range before {
		if after[name] == "" && !renamed[address] {
			want[name] = routes.Removed
		}
	}
	got := map[string]string{}
	for _, l := range a.Listeners {
		got[l.Name] = l.Action
	}
	if !maps.Equal(got, want) {
		t.Fatalf("told %v, want %v", got, want)
	}
}

func TestA_rename_and_a_swap_of_addresses_touch_no_socket_and_end_no_session(t *testing.T) {
	one, two := port(t), port(t)
	h := newHouse(t, entry("a", one)+entry("b", two))
	before := listening(t)
	first, second := smtptest.Open(t, one), smtptest.Open(t, two)
	if got := actions(h.must(h.apply(h.config(entry("b", one) + entry("a", two))))); got != "b rebound, a rebound" {
		t.Errorf("swap: %s", got)
	}
	applied := h.must(h.apply(h.config(entry("x", one) + entry("y", two))))
	if got := actions(applied); got != "x updated, y updated" || applied.Listeners[0].Sessions != 1 {
		t.Errorf("rename: %s, %+v", got, applied.Listeners)
	}
	if after := listening(t); !maps.Equal(before, after) {
		t.Errorf("sockets %v, before %v", after, before)
	}
	for _, c := range []*smtptest.Conn{first, second} {
		if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
			t.Errorf("%q", r)
		}
	}
	for _, l := range h.Status().Listeners {
		if l.Accepted != 1 || l.Sessions != 1 {
			t.Errorf("listener %+v", l)
		}
	}
}

// goroutines counts them once a gateway that has just begun to run has started all of its own.
func goroutines() int {
	n, since := runtime.NumGoroutine(), time.Now()
	for time.Since(since) < 50*time.Millisecond {
		if now := runtime.NumGoroutine(); now != n {
			n, since = now, time.Now()
		}
		runtime.Gosched()
	}
	return n
}

func TestA_fault_at_any_step_of_prepare_leaves_everything_as_it_was(t *testing.T) {
	held, err := net.Listen("tcp", port(t))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	one, added := port(t), port(t)
	h := newHouse(t, entry("a", one))
	if err := os.WriteFile(h.dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A broker that is there: one that is away is tried again at any time, with a goroutine and a descriptor.
	there := strings.NewReplacer(nowhere, amqptest.Start(t).URL())
	h.must(h.apply(there.Replace(h.config(entry("a", one)))))
	eventually(t, "the broker is connected", h.publisher.Available)
	next := strings.NewReplacer("/spool", "/deep/spool2", "/admin.sock", "/new/too/admin.sock").Replace(there.Replace(h.config(entry("a2", one) + entry("b", added))))
	for _, c := range []struct{ name, old, new, says string }{
		{"the spool", "/deep/spool2", "/file", ": spool.dir: "},
		{"the admin socket", "/new/too/admin.sock", "/file/admin.sock", ": admin.socket: "},
		{"a socket", added, held.Addr().String(), ": listeners[1].address: cannot listen on " + held.Addr().String() + ": address already in use (another program listens there: stop it, or choose another port)"},
		{"a Unix socket", added, "unix:" + h.dir + "/file", ": listeners[1].address: cannot listen on unix:" + h.dir + "/file: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			tasks := goroutines()
			status, open, files := snapshot(h), descriptors(t), below(t, h.dir)
			config := strings.Replace(next, c.old, c.new, 1)
			if _, err := h.apply(config); err == nil || !placed.MatchString(err.Error()) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v", err)
			}
			eventually(t, "the goroutines are those of before", func() bool { return runtime.NumGoroutine() <= tasks })
			if now := snapshot(h); !reflect.DeepEqual(now, status) {
				t.Errorf("status %+v\nbefore %+v", now, status)
			}
			if now := descriptors(t); !slices.Equal(slices.Sorted(maps.Values(now)), slices.Sorted(maps.Values(open))) {
				t.Errorf("descriptors %v\nbefore %v", now, open)
			}
			if now := below(t, h.dir); !slices.Equal(now, files) {
				t.Errorf("files %v\nbefore %v", now, files)
			}
			if _, err := net.Dial("tcp", added); err == nil {
				t.Error("the new address answers")
			}
		})
	}
	if applied := h.must(h.apply(next)); applied.Generation != 3 || actions(applied) != "a2 updated, b added" {
		t.Errorf("at last %+v", applied)
	}
}

// below are the files and directories in dir.
func below(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// placed is how an error begins that tells where in the file it can be mended.
var placed = regexp.MustCompile(`^\S+lsmtpd\.yaml:[1-9]\d*:[1-9]\d*: `)

// snapshot is the status without what changes by itself.
func snapshot(h *house) Status {
	s := h.Status()
	s.Broker.Retry, s.Broker.Error, s.Broker.Lanes = nil, "", nil
	s.Process = ProcessStatus{}
	return s
}

func TestA_wildcard_and_an_address_it_covers_are_not_exchanged_and_the_remedy_is_told(t *testing.T) {
	address := port(t)
	_, number, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, entry("a", "0.0.0.0:"+number))
	for _, wanted := range []string{address, ":" + number, "[::]:" + number} {
		_, err := h.apply(h.config(entry("a", wanted)))
		if wanted == "[::]:"+number { // the other family: nothing stands in the way
			if err != nil {
				t.Errorf("%s: %v", wanted, err)
			}
			continue
		}
		want := ": listeners[0].address: cannot listen on " + wanted + ": address already in use (this process listens on 0.0.0.0:" + number +
			" until the new address is bound: take another port, reload, and then this one) [listener a]"
		if err == nil || !placed.MatchString(err.Error()) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("error %v\nwant  %s", err, want)
		}
		smtptest.Open(t, address)
	}
	h.must(h.apply(h.config(entry("a", port(t)))))
	h.must(h.apply(h.config(entry("a", address))))
	smtptest.Open(t, address)
}

func TestA_removed_listener_drains_its_sessions_and_greets_those_in_its_queue_with_421(t *testing.T) {
	gone, stays := port(t), port(t)
	h := newHouse(t, entry("gone", gone)+entry("stays", stays))
	idle, busy, other := smtptest.Open(t, gone), smtptest.Open(t, gone), smtptest.Open(t, stays)
	busy.Do("MAIL FROM:<ann@client.example>")
	applied := h.must(h.apply(h.config(entry("stays", stays))))
	if got := actions(applied); got != "stays kept, gone removed" || applied.Listeners[1].Sessions != 2 {
		t.Errorf("%+v", applied)
	}
	if _, err := net.Dial("tcp", gone); err == nil {
		t.Error("it listens still")
	}
	idle.Want("421 4.3.2 Service not available, closing")
	idle.WantEnd()
	if d := h.Status().Draining; len(d) != 1 || d[0].Name != "gone" || d[0].Sessions < 1 {
		t.Errorf("draining %+v", d)
	}
	if r := busy.Do("RCPT TO:<bob@example.com>"); r.Code() != 250 {
		t.Fatal(r)
	}
	busy.Do("DATA")
	busy.Send("x\r\n.\r\n")
	if r := busy.Reply(); r.Code() != 250 {
		t.Errorf("the mail under way: %q", r)
	}
	busy.Want("421 4.3.2 Service not available, closing")
	busy.WantEnd()
	if r := other.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
		t.Errorf("the listener that stays: %q", r)
	}
	eventually(t, "nobody drains any more", func() bool { return len(h.Status().Draining) == 0 })
}

func TestA_session_that_does_not_end_is_cut_after_drain_timeout(t *testing.T) {
	gone, stays := port(t), port(t)
	h := newHouse(t, entry("gone", gone)+entry("stays", stays))
	busy := smtptest.Open(t, gone)
	busy.Do("MAIL FROM:<ann@client.example>")
	h.must(h.apply("drain_timeout: 50ms\n" + h.config(entry("stays", stays))))
	if _, err := busy.Receive(); err == nil {
		t.Error("it was told something")
	}
	eventually(t, "it has ended", func() bool { return len(h.Status().Draining) == 0 })
}

func TestA_session_that_outlives_many_reloads_is_waited_for_and_counted_once(t *testing.T) {
	gone, stays := port(t), port(t)
	var log logtest.Buffer
	h := newHouseThatLogs(t, log.Logger(), entry("gone", gone)+entry("stays", stays))
	busy := smtptest.Open(t, gone)
	busy.Do("MAIL FROM:<ann@client.example>")
	h.must(h.apply("drain_timeout: 2s\n" + h.config(entry("stays", stays))))
	tasks := goroutines()
	for i := range 50 {
		h.must(h.apply("drain_timeout: 2s\n" + h.config(entry("stays", stays, fmt.Sprintf("max_recipients: %d", 100+i)))))
	}
	if now := goroutines(); now > tasks {
		t.Errorf("%d goroutines after 50 reloads, %d before", now, tasks)
	}
	if _, err := busy.Receive(); err == nil {
		t.Error("it was told something")
	}
	h.tasks.Wait()
	if text := log.String(); strings.Count(text, "cut sessions of removed listeners") != 1 || !strings.Contains(text, "sessions=1\n") {
		t.Errorf("log:\n%s", text)
	}
}

// TestNobody_who_connects_while_a_listener_goes_is_forgotten races clients against the commit: each must hear 421 or be refused.
func TestNobody_who_connects_while_a_listener_goes_is_forgotten(t *testing.T) {
	gone, stays := port(t), port(t)
	h := newHouse(t, entry("stays", stays))
	for range 50 {
		h.must(h.apply(h.config(entry("stays", stays) + entry("gone", gone))))
		told := make(chan error, 20)
		for range cap(told) {
			go func() {
				c, err := smtptest.Connect(gone)
				if err != nil {
					told <- nil
					return
				}
				defer c.Close()
				for {
					r, err := c.Receive()
					if err != nil || r.Code() == 421 {
						told <- err
						return
					}
				}
			}()
		}
		runtime.Gosched()
		h.must(h.apply(h.config(entry("stays", stays))))
		for range cap(told) {
			if err := <-told; err != nil {
				t.Fatal(err)
			}
		}
	}
}

// meanwhile is a connection that has something happen while a session is made on it.
type meanwhile struct {
	net.Conn
	do func()
}

func (c meanwhile) RemoteAddr() net.Addr {
	c.do()
	return c.Conn.RemoteAddr()
}

func TestA_session_that_begins_as_its_listener_goes_is_told_so(t *testing.T) {
	gone, stays := port(t), port(t)
	h := newHouse(t, entry("stays", stays)+entry("gone", gone))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := smtptest.Dial(t, l.Addr().String())
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	h.handle(gone, meanwhile{server, func() { h.must(h.apply(h.config(entry("stays", stays)))) }})
	client.Want("421 4.3.2 Service not available, closing")
	client.WantEnd()
}

func TestAn_address_that_goes_and_comes_back_at_once_is_bound_again(t *testing.T) {
	comes, stays := port(t), port(t)
	h := newHouse(t, entry("stays", stays))
	unix := "unix:" + h.dir + "/s"
	for range 200 {
		h.must(h.apply(h.config(entry("stays", stays) + entry("a", comes) + entry("b", unix))))
		h.must(h.apply(h.config(entry("stays", stays))))
	}
}

func TestThe_admin_socket_moves_and_the_answer_under_way_is_finished(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	applied, asked := make(chan struct{}), make(chan struct{})
	h.answer = func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-applied
		w.Write([]byte("done"))
	}
	answer := make(chan string, 1)
	go func() { answer <- get(h.dir + "/admin.sock") }()
	<-asked
	moved := strings.Replace(h.config(entry("a", port(t))), "/admin.sock", "/other.sock", 1)
	h.must(h.apply(moved))
	close(applied)
	if got := <-answer; got != "done" {
		t.Errorf("the answer under way: %q", got)
	}
	eventually(t, "the old socket is gone", func() bool { _, err := os.Lstat(h.dir + "/admin.sock"); return err != nil })
	if _, err := os.Lstat(h.dir + "/other.sock"); err != nil {
		t.Error(err)
	}
}

// get asks the admin socket at path.
func get(path string) string {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	r, err := client.Get("http://lsmtpd/")
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
