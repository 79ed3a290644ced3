package reload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

func TestA_first_load_that_fails_ends_the_run_with_its_faults(t *testing.T) {
	s := newSite(t, "listeners: [{name: a, adress: \":25\"}]\n")
	err := s.Run(t.Context(), func(Report) { t.Error("it says that it is ready") })
	var faults config.Faults
	if !errors.As(err, &faults) || !strings.Contains(err.Error(), "lsmtpd.yaml:1:23: listeners[0]: unknown key \"adress\" (did you mean address?)") {
		t.Errorf("error %v", err)
	}
	s = newSite(t, listeners(1, "a"))
	s.fail(errors.New("port in use"))
	if err := s.Run(t.Context(), func(Report) { t.Error("it says that it is ready") }); err == nil || err.Error() != "port in use" {
		t.Errorf("error %v", err)
	}
	if _, err := s.Reload(t.Context(), Command); !errors.Is(err, ErrStopped) {
		t.Errorf("a reload after the end: %v", err)
	}
}

func TestAn_invalid_file_is_rejected_and_told_and_the_return_to_the_running_one_clears_the_alarm(t *testing.T) {
	good := listeners(1000, "a")
	s := newSite(t, good).deaf().run()
	if st := s.Status(); st.Degraded || st.Generation != 1 || st.Digest == "" || st.Errors != nil {
		t.Errorf("at first %+v", st)
	}
	s.replace(strings.Replace(good, "1000", "10 MBit", 1))
	r := s.reload()
	const want = "lsmtpd.yaml:5:17: listeners[0].size_limit: \"10 MBit\" is not a size (like 10MiB) [listener a]"
	if r.Result != Rejected || r.Generation != 1 || len(r.Errors) != 1 || r.Errors[0] != s.dir+"/"+want {
		t.Errorf("the invalid one: %+v", r)
	}
	if st := s.Status(); !st.Degraded || st.Generation != 1 || st.Errors[0] != s.dir+"/"+want || st.Succeeded != st.Applied && st.Succeeded.After(r.Time) {
		t.Errorf("with the invalid one %+v", st)
	}
	s.replace(good)
	if r := s.reload(); r.Result != Unchanged || r.Generation != 1 || r.Before != r.After || r.Errors != nil {
		t.Errorf("the same as before: %+v", r)
	}
	if st := s.Status(); st.Degraded || st.Errors != nil || !st.Succeeded.After(st.Applied) {
		t.Errorf("at last %+v", st)
	}
	if got := results(s.History()); got != "start applied, command rejected, command unchanged" {
		t.Error(got)
	}
	if n := s.Status().Reloads[Command][Rejected]; n != 1 {
		t.Errorf("%d rejections counted", n)
	}
}

func TestA_report_tells_what_changed_where_and_what_became_of_each_listener(t *testing.T) {
	s := newSite(t, listeners(1000, "a", "b", "c"))
	s.Reloader.Apply = func(_ context.Context, table *routes.Table) (routes.Applied, error) {
		var all []routes.AppliedListener
		for _, l := range table.Listeners {
			all = append(all, routes.AppliedListener{Name: l.Name, Address: l.Address, Action: routes.Kept})
		}
		return routes.Applied{Generation: 7, Listeners: all, Warnings: []string{"of Apply"}}, nil
	}
	s.deaf().run()
	s.replace("# one line more\n" + strings.Replace(listeners(1000, "a", "b", "c"), "size_limit: 1000", "size_limit: 2000", 1))
	r := s.reload()
	if len(r.Changes) != 1 || r.Changes[0].Key != "listeners[a].size_limit" || r.Changes[0].Place.Line != 6 ||
		r.Changes[0].Old != "1KB" || r.Changes[0].New != "2KB" {
		t.Errorf("changes %+v", r.Changes)
	}
	if got := fmt.Sprint(r.Listeners); got != "[{a 127.0.0.1:2000 updated 0} {b 127.0.0.1:2001 kept 0} {c 127.0.0.1:2002 kept 0}]" {
		t.Errorf("listeners %s", got)
	}
	if r.Generation != 7 || len(r.Warnings) != 1 || r.Before == r.After {
		t.Errorf("report %+v", r)
	}
	want := "by command in 0.0 ms, generation 7; " + s.Path + ":6:17: listeners[a].size_limit: \"1KB\" → \"2KB\"; updated a on 127.0.0.1:2000; warning: of Apply"
	r.Duration = 0
	if got := r.String(); got != want {
		t.Errorf("text\n%s\nwant\n%s", got, want)
	}
}

func TestWhat_cannot_be_applied_is_tried_again_until_it_can_and_told_once(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.fail(errors.New("port in use"))
		s.replace(listeners(1000, "a", "b"))
		begun := time.Now()
		if r := s.reload(); r.Result != Rejected || r.Errors[0] != "port in use" {
			t.Fatalf("%+v", r)
		}
		time.Sleep(200 * time.Second) // tries after 1, 3, 7, 15, 31, 63, 123 and 183 s
		if st := s.Status(); st.Reloads[Retry][Rejected] != 8 || !st.Degraded {
			t.Errorf("after 200 s %+v", st)
		}
		if got := results(s.History()); got != "start applied, command rejected" {
			t.Errorf("history %s", got)
		}
		s.fail(nil)
		time.Sleep(time.Minute)
		if s.inForce() != "a b" || s.Status().Degraded {
			t.Errorf("after the port is free: %q, %+v", s.inForce(), s.Status())
		}
		last := s.History()[2]
		if last.Trigger != Retry || last.Result != Applied || last.Time.Sub(begun) != 243*time.Second {
			t.Errorf("last report %+v", last)
		}
		time.Sleep(time.Hour)
		if n := s.Status().Reloads[Retry]; n[Rejected] != 8 || n[Applied] != 1 {
			t.Errorf("it tries on: %v", n)
		}
	})
}

func TestThe_next_failure_is_tried_again_soon_however_long_the_last_one_took(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.fail(errors.New("port in use"))
		s.replace(listeners(1000, "a", "b"))
		s.reload()
		time.Sleep(10 * time.Minute)
		s.replace(listeners(1000, "a", "b", "c"))
		s.reload()
		s.fail(nil)
		time.Sleep(time.Second + time.Millisecond)
		if s.inForce() != "a b c" {
			t.Errorf("%q in force", s.inForce())
		}
	})
}

func TestA_file_that_is_mended_or_taken_back_is_not_tried_again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.fail(errors.New("port in use"))
		s.replace(listeners(1000, "a", "b"))
		s.reload()
		s.replace(listeners(1000, "a"))
		s.reload()
		time.Sleep(time.Hour)
		if n := s.Status().Reloads[Retry]; len(n) != 0 {
			t.Errorf("tried again: %v", n)
		}
	})
}

func TestWhat_is_half_written_when_a_failed_one_is_tried_again_waits_for_its_time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a", "b")).deaf().run()
		s.fail(errors.New("port in use"))
		s.replace(listeners(1000, "a", "b", "c"))
		s.reload()
		s.fail(nil)
		s.write(listeners(1000, "a")) // cut where a list may end
		time.Sleep(2 * time.Second)   // it was tried again after one
		if s.inForce() != "a b" {
			t.Errorf("half a file is in force: %q", s.inForce())
		}
		s.write(listeners(1000, "a", "b", "c"))
		time.Sleep(quietMost + pollInterval)
		if s.inForce() != "a b c" || s.Status().Degraded {
			t.Errorf("%q in force, %+v", s.inForce(), s.Status())
		}
	})
}

func TestWhat_cannot_be_read_for_a_cause_that_may_pass_is_tried_again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		// The kernel answers EIO to whoever reads the first page of its own memory: nothing of the file's changes.
		s.replace(listeners(1000, "a", "b") + "amqp: {password_file: /proc/self/mem}\n")
		if r := s.reload(); r.Result != Rejected {
			t.Fatalf("%+v", r)
		}
		time.Sleep(200 * time.Second)
		if n := s.Status().Reloads[Retry][Rejected]; n != 8 {
			t.Errorf("tried %d times in 200 s", n)
		}
	})
}

func TestAn_included_file_that_leads_nowhere_keeps_its_listeners_until_it_goes(t *testing.T) {
	s := emptySite(t)
	s.must(os.Mkdir(s.dir+"/t", 0o755))
	tenant := s.dir + "/t/a.yaml"
	s.must(os.WriteFile(tenant, []byte("listeners: [{name: a, address: \":2\", exchange: x}]\n"), 0o600))
	s.write("include: [t/*.yaml]\ninclude_errors: keep\nlisteners: [{name: main, address: \":1\", exchange: x}]\n")
	s.deaf().run()
	s.must(os.Remove(tenant))
	s.must(os.Symlink("nowhere", tenant))
	if r := s.reload(); r.Result != Applied || s.inForce() != "main a" || !s.Status().Degraded {
		t.Errorf("%q, %+v", s.inForce(), r)
	}
	s.must(os.Remove(tenant))
	if r := s.reload(); r.Result != Applied || s.inForce() != "main" || s.Status().Degraded {
		t.Errorf("%q, %+v", s.inForce(), r)
	}
	s.must(os.Mkdir(tenant, 0o700))
	if r := s.reload(); r.Result != Applied || len(r.Errors) != 1 || !s.Status().Degraded {
		t.Errorf("%+v", r)
	}
}

func TestA_hangup_before_the_first_load_is_kept_and_many_are_one(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf()
		s.took = time.Second
		for range 100 {
			s.Hangup()
		}
		s.run()
		synctest.Wait()
		if got := results(s.History()); got != "start applied, signal unchanged" {
			t.Error(got)
		}
	})
}

func TestA_caller_whose_reload_waits_for_another_gets_one_that_began_after_its_call(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.took = time.Second
		s.replace(listeners(1001, "a"))
		first := make(chan Report)
		go func() { first <- s.reload() }()
		time.Sleep(500 * time.Millisecond) // the first has read the file, and applies it
		s.replace(listeners(1002, "a"))
		var waiting sync.WaitGroup
		called := time.Now()
		for range 10 {
			waiting.Go(func() {
				if r := s.reload(); r.Result != Applied || r.Generation != 3 || r.Time.Before(called) {
					t.Errorf("the second: %+v", r)
				}
			})
		}
		if r := <-first; r.Result != Applied || r.Generation != 2 {
			t.Errorf("the first: %+v", r)
		}
		waiting.Wait()
		if n := len(s.applied()); n != 3 {
			t.Errorf("%d tables for ten callers at once", n)
		}
	})
}

func TestA_reload_that_is_asked_of_one_who_stops_is_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf()
		s.took = time.Minute
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, func(Report) {}) }()
		time.Sleep(2 * time.Minute)
		s.replace(listeners(1001, "a"))
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := s.Reload(t.Context(), Command); first <- err }()
		synctest.Wait()
		stop()
		go func() { _, err := s.Reload(t.Context(), Command); second <- err }()
		if err := <-first; err != nil {
			t.Errorf("the one under way: %v", err)
		}
		if err := <-second; !errors.Is(err, ErrStopped) {
			t.Errorf("the one that waited: %v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := (&Reloader{Log: s.Log}).Reload(impatient, Command); !errors.Is(err, context.Canceled) {
			t.Errorf("one who does not wait: %v", err)
		}
	})
}

func TestWhat_a_reload_that_changes_nothing_mends_is_reported_whoever_asked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite(t).deaf()
		s.write(listeners(1000, "a"))
		mended := routes.Applied{
			Listeners: []routes.AppliedListener{{Name: "a", Address: "unix:/a", Action: routes.Remade}}, Warnings: []string{"of Mend"},
		}
		var gone atomic.Bool // the socket's file
		gone.Store(true)
		s.Reloader.Mend = func() routes.Applied {
			if !gone.Load() {
				return routes.Applied{}
			}
			return mended
		}
		s.run()
		r := s.reload()
		if r.Result != Unchanged || r.Generation != 1 || !slices.Equal(r.Listeners, mended.Listeners) || !slices.Equal(r.Warnings, mended.Warnings) {
			t.Errorf("report %+v", r)
		}
		touch := func() {
			s.watcher.mark()
			time.Sleep(time.Second)
		}
		touch()
		gone.Store(false)
		touch()
		if got := results(s.History()); got != "start applied, command unchanged, watch unchanged" {
			t.Error(got)
		}
		if got := r.String(); !strings.HasSuffix(got, "; remade a on unix:/a; warning: of Mend") {
			t.Error(got)
		}
	})
}

func TestWhat_is_in_force_is_mended_also_when_the_files_are_invalid_or_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite(t).deaf()
		s.write("listeners: nonsense\n")
		mended := 0
		s.Reloader.Mend = func() routes.Applied {
			mended++
			return routes.Applied{
				Listeners: []routes.AppliedListener{{Name: "a", Address: "unix:/a", Action: routes.Remade}}, Warnings: []string{"of Mend"},
			}
		}
		if err := s.Reloader.Run(t.Context(), nil); err == nil || mended > 0 {
			t.Fatalf("the start: %v, mended %d times", err, mended)
		}
	})
	for _, c := range []struct {
		name, content string
		refused       error
	}{
		{"invalid", listeners(1000, "a") + "nonsense: 1\n", nil},
		{"refused", listeners(1001, "a"), errors.New("the port is busy")},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := emptySite(t).deaf()
			s.write(listeners(1000, "a"))
			mended := routes.Applied{
				Listeners: []routes.AppliedListener{{Name: "a", Address: "unix:/a", Action: routes.Remade}}, Warnings: []string{"of Mend"},
			}
			s.Reloader.Mend = func() routes.Applied { return mended }
			s.run()
			s.fail(c.refused)
			s.write(c.content)
			r := s.reload()
			if r.Result != Rejected || !slices.Equal(r.Listeners, mended.Listeners) || !slices.Equal(r.Warnings, mended.Warnings) {
				t.Errorf("%s: report %+v", c.name, r)
			}
		})
	}
}

func TestThe_history_keeps_the_last_twenty_and_leaves_out_what_tells_nothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		for i := range 30 {
			s.replace(listeners(1001+i, "a"))
			s.reload()
			s.watcher.mark() // the event that comes behind
			time.Sleep(time.Second)
		}
		h := s.History()
		if len(h) != historySize || h[len(h)-1].Generation != 31 || h[0].Generation != 12 {
			t.Errorf("%d reports: %s", len(h), results(h))
		}
		if n := s.Status().Reloads[Watch][Unchanged]; n != 30 {
			t.Errorf("%d looks of the watcher counted", n)
		}
	})
}

// TestWriters_signals_and_callers_at_once has each write a number higher than all before it.
func TestWriters_signals_and_callers_at_once_each_get_their_answer_and_the_last_octets_win(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1, "a")).deaf()
		s.took = 3 * time.Millisecond
		s.run()
		var mu sync.Mutex
		last := 1
		write := func() int {
			mu.Lock()
			defer mu.Unlock()
			last++
			s.replace(listeners(last, "a"))
			return last
		}
		var writers sync.WaitGroup
		for w := range 10 {
			writers.Go(func() {
				random := rand.New(rand.NewPCG(uint64(w), 10))
				generation := uint64(0)
				for range 200 {
					time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
					n := write()
					switch random.IntN(3) {
					case 0:
						s.Hangup()
					case 1:
						s.watcher.mark()
					default:
						r := s.reload()
						if r.Result == Rejected || r.Generation < generation {
							t.Errorf("generation %d after %d: %+v", r.Generation, generation, r)
						}
						generation = r.Generation
						if got := s.sizeOf(r.Generation); got < n {
							t.Errorf("who wrote %d got the answer for %d", n, got)
						}
					}
				}
			})
		}
		writers.Wait()
		time.Sleep(10 * time.Second)
		tables := s.applied()
		if got := s.sizeOf(uint64(len(tables))); got != last || last != 2001 {
			t.Errorf("%d in force, %d written last", got, last)
		}
		for i := 2; i <= len(tables); i++ {
			if s.sizeOf(uint64(i)) <= s.sizeOf(uint64(i-1)) {
				t.Errorf("generation %d has %d after %d", i, s.sizeOf(uint64(i)), s.sizeOf(uint64(i-1)))
			}
		}
		if d := s.Status().Digest; d != tables[len(tables)-1].Config.Digest {
			t.Errorf("the status tells digest %s", d)
		}
	})
}

// sizeOf is the size limit of a generation.
func (s *site) sizeOf(generation uint64) int {
	return int(s.applied()[generation-1].Listeners[0].SizeLimit)
}

func TestA_broken_included_file_keeps_its_last_good_listeners_and_the_rest_applies(t *testing.T) {
	s := emptySite(t)
	file := func(name, content string) {
		s.must(os.MkdirAll(s.dir+"/t", 0o755))
		s.must(os.WriteFile(s.dir+"/t/"+name, []byte(content), 0o600))
	}
	main := "include: [t/*.yaml]\ninclude_errors: keep\nlisteners: [{name: main, address: \":1\", exchange: x}]\n"
	tenant := func(name string, port int, more string) string {
		return "listeners: [{name: " + name + ", address: \":" + strconv.Itoa(port) + "\", exchange: x" + more + "}]\n"
	}
	s.write(main)
	file("a.yaml", tenant("a", 2, ""))
	file("b.yaml", tenant("b", 3, ", nonsense: 1"))
	s.deaf().run()
	if st := s.Status(); s.inForce() != "main a" || !st.Degraded || st.Errors[0] != s.dir+"/t/b.yaml:1:51: listeners[0]: unknown key \"nonsense\" [listener b]" {
		t.Fatalf("%q, %+v", s.inForce(), st)
	}
	if h := s.History(); h[0].Result != Applied || len(h[0].Errors) != 1 {
		t.Errorf("report %+v", h[0])
	}

	for _, step := range []struct{ name, a, b, main, inForce, fault string }{
		{"b is mended, and a cut in two", "listeners: [{name: a,\n", tenant("b", 3, ""), main, "main a b", "t/a.yaml:"},
		{"a changes what only the whole shows", tenant("b", 2, ""), tenant("b", 3, ""), main, "main a b", "t/b.yaml:1:20: listeners[0].name: \"b\" is the name of"},
		{"a has a bad template", tenant("a", 2, ", routing_key: \"{nobody}\""), tenant("b", 3, ""), main, "main a b", "t/a.yaml:1:"},
		{"the rest changes", "x\n", tenant("b", 4, ""), main, "main a b", "t/a.yaml:"},
		{"all is well", tenant("a", 2, ""), tenant("b", 3, ""), main, "main a b", ""},
	} {
		file("a.yaml", step.a)
		file("b.yaml", step.b)
		s.replace(step.main)
		r := s.reload()
		if r.Result != Applied || s.inForce() != step.inForce {
			t.Errorf("%s: %q, %+v", step.name, s.inForce(), r)
		}
		if degraded := step.fault != ""; s.Status().Degraded != degraded || degraded && !strings.HasPrefix(r.Errors[0], s.dir+"/"+step.fault) {
			t.Errorf("%s: errors %q", step.name, r.Errors)
		}
	}

	file("a.yaml", "nonsense\n")
	s.reload()
	if r := s.reload(); r.Result != Unchanged || len(r.Errors) != 1 || !s.Status().Degraded {
		t.Errorf("unchanged, and still broken: %+v", r)
	}
	s.replace(strings.Replace(main, "name: main", "name: a", 1))
	if r := s.reload(); r.Result != Rejected || len(r.Errors) != 2 || !strings.Contains(r.Errors[1], "is the name of the listener at") {
		t.Errorf("a kept listener in the way of the main file: %+v", r)
	}
	s.replace(strings.Replace(main, "keep", "refuse", 1))
	if r := s.reload(); r.Result != Rejected || len(r.Errors) != 1 {
		t.Errorf("a broken file where none may be: %+v", r)
	}
}

func TestAReportOfVeryManyChangesNamesTheFirstAndCountsTheRest(t *testing.T) {
	r := &Reloader{Log: slog.New(slog.DiscardHandler), table: &routes.Table{Config: &config.Config{}}}
	r.init()
	changes := make([]config.Change, maxChanges+7)
	report := r.conclude(Report{Trigger: Command, Changes: changes}, Applied, nil)
	if len(report.Changes) != maxChanges || report.More != 7 || len(r.History()[0].Changes) != maxChanges {
		t.Errorf("%d changes and %d more", len(report.Changes), report.More)
	}
}
