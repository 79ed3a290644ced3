package reload

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// event tells the Reloader what an event of the system would.
func (s *site) event() { s.watcher.mark() }

func TestAn_event_is_followed_by_a_reading_after_a_quarter_of_a_second_of_quiet_and_two_seconds_at_most(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.replace(listeners(1001, "a"))
		s.event()
		time.Sleep(quietTime - time.Millisecond)
		if n := len(s.applied()); n != 1 {
			t.Fatal("it did not wait")
		}
		time.Sleep(2 * time.Millisecond)
		if n := len(s.applied()); n != 2 {
			t.Fatal("it is not in force after the quiet time")
		}
		for i := range 200 { // 20 s of saves, a tenth of a second apart
			s.write(listeners(2000+i, "a"))
			s.event()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(quietTime)
		if n := len(s.applied()) - 2; n < 9 || n > 11 {
			t.Errorf("%d reloads for 20 s of saves", n)
		}
		if got := s.sizeOf(uint64(len(s.applied()))); got != 2199 {
			t.Errorf("%d in force at last", got)
		}
	})
}

func TestWhat_only_the_watcher_saw_and_removes_anything_must_stand_for_two_seconds_and_a_command_does_not_wait(t *testing.T) {
	full := listeners(1000, "a", "b") + "drain_timeout: 5s\n"
	for name, less := range map[string]string{
		"a listener":          listeners(1000, "a") + "drain_timeout: 5s\n",
		"a key":               listeners(1000, "a", "b"),
		"a key of a listener": strings.Replace(full, "    size_limit: 1000\n", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, full).deaf().run()
				s.write(less)
				s.event()
				time.Sleep(quietTime + removalTime - time.Millisecond)
				if n := len(s.applied()); n != 1 {
					t.Fatal("in force too early")
				}
				time.Sleep(2 * time.Millisecond)
				if n := len(s.applied()); n != 2 {
					t.Fatal("not in force after its time")
				}
				s.write(full)
				s.event()
				time.Sleep(quietTime + time.Millisecond)
				if n := len(s.applied()); n != 3 {
					t.Fatal("what adds does not wait")
				}
				s.write(less)
				s.event()
				time.Sleep(quietTime + time.Second)
				if r := s.reload(); r.Result != Applied {
					t.Errorf("by command %+v", r)
				}
				time.Sleep(time.Minute)
				if got := results(s.History()); got != "start applied, watch applied, watch applied, command applied" {
					t.Error(got)
				}
			})
		})
	}
}

func TestA_removal_that_is_taken_back_or_goes_on_is_never_in_force_before_its_time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a", "b", "c")).deaf().run()
		for _, names := range [][]string{{"a", "b"}, {"a"}, {"a", "b"}, {"a", "b", "c"}} {
			s.write(listeners(1000, names...))
			s.event()
			time.Sleep(1900 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := len(s.applied()); n != 1 {
			t.Errorf("%d tables", n)
		}
		if got := results(s.History()); got != "start applied" {
			t.Error(got)
		}
	})
}

func TestHalf_a_file_is_read_again_for_five_seconds_and_then_taken_for_what_it_is(t *testing.T) {
	cut := strings.TrimSuffix(listeners(1001, "a"), "\n")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		for _, c := range []struct {
			content string
			want    Result
		}{{"", Rejected}, {cut, Applied}} {
			s.write(c.content)
			begun := time.Now()
			if r := s.reload(); r.Result != c.want || time.Since(begun) < tornTime || time.Since(begun) > tornTime+tornMost {
				t.Errorf("%q after %v: %+v", c.content, time.Since(begun), r)
			}
			begun = time.Now()
			if r := s.reload(); r.Result == Applied || time.Since(begun) > 0 {
				t.Errorf("%q again after %v: %+v", c.content, time.Since(begun), r)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "").deaf()
		if err := s.Run(t.Context(), func(Report) {}); err == nil || !strings.Contains(err.Error(), "is empty") {
			t.Errorf("a start with an empty file: %v", err)
		}
	})
}

func TestA_writer_that_ends_within_five_seconds_is_waited_for(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a", "b")).deaf().run()
		s.write("")
		done := make(chan Report)
		go func() { done <- s.reload() }()
		time.Sleep(4900 * time.Millisecond)
		s.write(listeners(1001, "a", "b"))
		if r := <-done; r.Result != Applied || r.Errors != nil {
			t.Errorf("%+v", r)
		}
	})
}

func TestA_stop_does_not_wait_for_half_a_file(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, func(Report) {}) }()
		synctest.Wait()
		s.write("")
		asked := make(chan error, 1)
		go func() { _, err := s.Reload(t.Context(), Command); asked <- err }()
		time.Sleep(time.Second)
		begun := time.Now()
		stop()
		if err := <-asked; !errors.Is(err, ErrStopped) {
			t.Errorf("who asked meanwhile is told %v", err)
		}
		if err := <-ended; err != nil || time.Since(begun) > 0 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// TestA_write_that_is_cut_anywhere has a writer that truncates the file, writes as far as the cut, and goes on after the pause.
func TestA_write_that_is_cut_anywhere_never_shows_an_intermediate_set_of_listeners(t *testing.T) {
	old := listeners(1000, "a", "b", "c") + "drain_timeout: 5s\n"
	next := listeners(2000, "a", "b", "c") + "drain_timeout: 6s\n"
	random := rand.New(rand.NewPCG(1, 9))
	for cut := range len(next) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, old).deaf().run()
			f, err := os.OpenFile(s.Path, os.O_WRONLY|os.O_TRUNC, 0)
			s.must(err)
			defer f.Close()
			_, err = f.WriteString(next[:cut])
			s.must(err)
			s.event()
			time.Sleep(time.Duration(random.IntN(1900)) * time.Millisecond)
			_, err = f.WriteString(next[cut:])
			s.must(err)
			s.event()
			time.Sleep(10 * time.Second)
			tables := s.applied()
			for i, table := range tables {
				if got := names(table); got != "a b c" || table.Config.DrainTimeout < 5*time.Second || table.Config.DrainTimeout > 6*time.Second {
					t.Errorf("cut at %d: generation %d has %q and drain_timeout %v", cut, i+1, got, table.Config.DrainTimeout)
				}
			}
			if d := tables[len(tables)-1].Config.DrainTimeout; d != 6*time.Second || s.Status().Degraded {
				t.Errorf("cut at %d: at last drain_timeout %v, status %+v", cut, d, s.Status())
			}
		})
	}
}
