package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

func TestReplay_goes_oldest_first_over_a_restart(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	var want []uuid.UUID
	for i := range 20 {
		want = append(want, putReady(t, s, mail.JSON, strconv.Itoa(i)).ID)
	}
	mustClose(t, s)

	s = opened(t, dir)
	want = append(want, putReady(t, s, mail.JSON, "new").ID)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []uuid.UUID
	_ = s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		got = append(got, d.ID) // a canary each time: Later does not widen the window
		if len(got) == len(want) {
			cancel()
		}
		return Later, nil
	})
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("replay %d is %s, want %s", i, got[i], want[i])
		}
	}
}

func TestReplay_leaves_alone_what_is_held(t *testing.T) {
	s := opened(t, spoolDir(t))
	held := someDelivery(mail.JSON, []byte("held"))
	mustPut(t, s, held)
	freed := putReady(t, s, mail.JSON, "free")
	if got := replayed(t, s, 1); got[0].id != freed.ID {
		t.Errorf("replayed %s, which is held", got[0].id)
	}
	s.Settle(held.ID, false)
	if got := replayed(t, s, 1); got[0].id != held.ID {
		t.Errorf("replayed %s", got[0].id)
	}
}

func TestReplay_tries_one_alone_then_doubles_the_window_up_to_64(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		const n = 1 + 2 + 4 + 8 + 16 + 32 + 64 + 64
		for range n {
			putReady(t, s, mail.JSON, "x")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running, tried atomic.Int32
		rounds := make(map[int64]int32) // by time: every try takes a second
		var mu sync.Mutex
		began := time.Now()
		_ = s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
			now := running.Add(1)
			round := int64(time.Since(began) / time.Second)
			mu.Lock()
			rounds[round] = max(rounds[round], now)
			mu.Unlock()
			time.Sleep(time.Second)
			running.Add(-1)
			if tried.Add(1) == n {
				cancel()
			}
			return Done, nil
		})
		for round, want := range []int32{1, 2, 4, 8, 16, 32, 64, 64} {
			if got := rounds[int64(round)]; got != want {
				t.Errorf("round %d tried %d at once, want %d", round, got, want)
			}
		}
	})
}

func TestReplay_holds_no_more_than_64_MiB_in_flight(t *testing.T) {
	s := opened(t, spoolDir(t))
	s.mu.Lock()
	big, second := s.index.entry(uuid.New(), &head{SpooledAt: time.Unix(0, 1)}), s.index.entry(uuid.New(), &head{SpooledAt: time.Unix(0, 2)})
	big.size, second.size = maxInFlight+1, 10
	s.index.add(big, ready)
	s.index.add(second, ready)
	s.mu.Unlock()
	r := &replay{s: s, window: 64, results: make(chan result, 2), try: nil}
	r.begin(t.Context())
	if r.running != 1 || r.octets != big.size {
		t.Fatalf("%d running with %d octets, want the large one alone", r.running, r.octets)
	}
	r.end(<-r.results) // there is no such file: it is forgotten
	r.begin(t.Context())
	r.end(<-r.results)
	if st := s.Status(); st.Files != 0 || r.running != 0 || r.octets != 0 {
		t.Errorf("status %+v, %d running", st, r.running)
	}
}

func TestReplay_backs_off_from_5_s_to_10_min(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		putReady(t, s, mail.JSON, "x")
		ctx, cancel := context.WithCancel(t.Context())
		var times []time.Time
		_ = s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
			if times = append(times, time.Now()); len(times) == 11 {
				cancel()
				return Done, nil
			}
			return Later, errors.New("returned")
		})
		want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600, 600}
		for i, seconds := range want {
			if got := times[i+1].Sub(times[i]); got != seconds*time.Second {
				t.Errorf("pause %d is %v, want %d s", i, got, seconds)
			}
		}
	})
}

func TestReplay_takes_others_while_one_waits_for_its_back_off(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		poison := putReady(t, s, mail.JSON, "poison")
		var tried []uuid.UUID
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
				tried = append(tried, d.ID)
				if d.ID == poison.ID {
					return Later, nil
				}
				return Done, nil
			})
		}()
		synctest.Wait()
		if st := s.Status(); st.Retrying != 1 || st.Files != 1 {
			t.Errorf("status %+v", st)
		}
		later := putReady(t, s, mail.JSON, "later")
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if len(tried) != 2 || tried[1] != later.ID {
			t.Errorf("tried %v", tried)
		}
	})
}

func TestReplay_Stop_ends_it_and_keeps_every_file(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	for range 10 {
		putReady(t, s, mail.JSON, "x")
	}
	away := errors.New("broker is away")
	tried := 0
	err := s.Replay(t.Context(), func(context.Context, *mail.Delivery) (Verdict, error) {
		tried++
		return Stop, away
	})
	if !errors.Is(err, away) || tried != 1 {
		t.Errorf("error %v after %d tries", err, tried)
	}
	if n := len(files(t, dir)); n != 10 {
		t.Errorf("%d files of 10 are left", n)
	}
	replayed(t, s, 10)
}

func TestReplay_a_try_cut_off_by_the_end_costs_no_back_off(t *testing.T) {
	s := opened(t, spoolDir(t))
	putReady(t, s, mail.JSON, "x")
	ctx, cancel := context.WithCancel(t.Context())
	_ = s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
		cancel()
		return Later, ctx.Err()
	})
	if st := s.Status(); st.Retrying != 0 || st.Files != 1 {
		t.Errorf("status %+v", st)
	}
	replayed(t, s, 1)
}

func TestReplay_confirmed_meanwhile_is_removed_whatever_try_says(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	putReady(t, s, mail.JSON, "x")
	err := s.Replay(t.Context(), func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		s.Settle(d.ID, true)
		return Stop, nil
	})
	if err != nil {
		t.Error(err)
	}
	mustClose(t, s)
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("files %v", names)
	}
}

func TestReplay_forgets_a_file_that_somebody_took(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	taken := putReady(t, s, mail.JSON, "taken")
	if err := os.Remove(filepath.Join(dir, fileName(taken.ID))); err != nil {
		t.Fatal(err)
	}
	left := putReady(t, s, mail.JSON, "left")
	if got := replayed(t, s, 1); got[0].id != left.ID {
		t.Errorf("replayed %v", got)
	}
	if st := s.Status(); st.Files != 0 || st.Unreadable != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestReplay_runs_once_at_a_time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		var ended atomic.Int32
		for range 2 {
			go func() {
				_ = s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) { return Done, nil })
				ended.Add(1)
			}()
		}
		synctest.Wait()
		if len(s.turn) != 1 || ended.Load() != 0 {
			t.Errorf("%d turns taken, %d replays ended", len(s.turn), ended.Load())
		}
		cancel()
		synctest.Wait()
		if ended.Load() != 2 {
			t.Errorf("%d of 2 replays ended", ended.Load())
		}
	})
}

func TestReplay_beside_writers_delivers_everything_once(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	const writers, each = 8, 40
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	tried := make(map[uuid.UUID]int)
	done := make(chan error)
	go func() {
		done <- s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
			mu.Lock()
			defer mu.Unlock()
			tried[d.ID]++
			if len(tried) == writers*each {
				cancel()
			}
			return Done, nil
		})
	}()
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				d := someDelivery(mail.JSON, []byte(strings.Repeat("line\r\n", 100)))
				if err := s.Put(d); err != nil {
					t.Error(err)
				}
				s.Settle(d.ID, false)
			}
		})
	}
	all.Wait()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for id, n := range tried {
		if n != 1 {
			t.Errorf("%s was tried %d times", id, n)
		}
	}
	mustClose(t, s)
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("%d files are left", len(names))
	}
}

func TestReplay_leaves_alone_what_is_undecided_until_Settle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		d := putReady(t, s, mail.JSON, "x")
		tries := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
				tries++
				return Undecided, errors.New("not confirmed in time")
			})
		}()
		wantTries := func(want int) {
			t.Helper()
			time.Sleep(time.Hour)
			synctest.Wait()
			if tries != want {
				t.Errorf("tried %d times, want %d", tries, want)
			}
		}
		wantTries(1)
		if st := s.Status(); st.Held != 1 || st.Files != 1 {
			t.Errorf("status %+v", st)
		}
		s.Settle(d.ID, false) // returned after all
		wantTries(2)
		s.Settle(d.ID, true)
		wantTries(2)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if st := s.Status(); st.Files != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

func TestReplay_takes_what_Settle_says_before_the_verdict(t *testing.T) {
	for _, confirmed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := mustOpen(t, spoolDir(t))
			defer mustClose(t, s)
			d := putReady(t, s, mail.JSON, "x")
			var tries []time.Time
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				done <- s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
					tries = append(tries, time.Now())
					if len(tries) == 1 {
						s.Settle(d.ID, confirmed)
						return Undecided, nil
					}
					return Done, nil
				})
			}()
			time.Sleep(time.Hour)
			synctest.Wait()
			want := 2
			if confirmed {
				want = 1
			}
			if len(tries) != want || len(tries) == 2 && tries[1].Sub(tries[0]) != firstBackOff {
				t.Errorf("confirmed %v: tried at %v", confirmed, tries)
			}
			if st := s.Status(); st.Files != 0 {
				t.Errorf("status %+v", st)
			}
			cancel()
			<-done
		})
	}
}

func TestA_file_that_becomes_a_symbolic_link_is_put_aside_when_it_is_tried(t *testing.T) {
	for _, leads := range []string{"/etc/passwd", "nowhere"} {
		dir := spoolDir(t)
		s := opened(t, dir)
		m := putReady(t, s, mail.JSON, "x")
		name := filepath.Join(dir, fileName(m.ID))
		if err := errors.Join(os.Remove(name), os.Symlink(leads, name)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Try(t.Context(), m.ID, func(context.Context, *mail.Delivery) (Verdict, error) {
			t.Error("it was tried")
			return Done, nil
		})
		if st := s.Status(); err == nil || st.Files != 0 || st.Unreadable != 1 {
			t.Errorf("to %s: %v, %+v", leads, err, st)
		}
		if info, err := os.Lstat(filepath.Join(dir, badDirectory, fileName(m.ID))); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("to %s: in bad/: %v, %v", leads, info, err)
		}
	}
}
