package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
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

// to puts a delivery that waits for replay to exchange and key.
func to(t testing.TB, s *Spool, exchange, key string) *mail.Delivery {
	t.Helper()
	d := someDelivery(mail.JSON, []byte("x"))
	d.Exchange, d.RoutingKey = exchange, key
	mustPut(t, s, d)
	s.Settle(d.ID, false)
	return d
}

// attempt is one try of a replay: when, since the test began, and what.
type attempt struct {
	at time.Duration
	id uuid.UUID
}

// observed replays in the background until the test ends, with answer's verdicts, and notes the attempts. The test's clock goes on
// only while the test sleeps.
func observed(t *testing.T, s *Spool, answer func(*mail.Delivery) (Verdict, error)) (attempts func() []attempt, end func()) {
	began := time.Now()
	var mu sync.Mutex
	var all []attempt
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, attempt{time.Since(began), d.ID})
			return answer(d)
		})
	}()
	attempts = func() []attempt {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
	return attempts, func() { cancel(); <-done }
}

func TestReplay_after_a_return_the_rest_of_the_destination_waits_behind_one_file(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		const n = 100
		shut := true
		for range n {
			to(t, s, "x", "nobody")
			to(t, s, "x", "somebody")
		}
		attempts, end := observed(t, s, func(d *mail.Delivery) (Verdict, error) {
			if d.RoutingKey == "nobody" && shut {
				return Returned, errors.New("NO_ROUTE")
			}
			return Done, nil
		})
		defer end()
		first := attempts()
		if len(first) != n+1 {
			t.Fatalf("%d attempts, want those of the other destination and one", len(first))
		}
		if st := s.Status(); st.Files != n {
			t.Errorf("status %+v", st)
		}
		seen := map[uuid.UUID]int{}
		for _, pause := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600} {
			time.Sleep(pause*time.Second - 1)
			if got := attempts(); len(got) != 0 {
				t.Fatalf("%d attempts before the pause of %d s is over", len(got), pause)
			}
			time.Sleep(1)
			got := attempts()
			if len(got) != 1 {
				t.Fatalf("%d attempts after a pause of %d s, want one", len(got), pause)
			}
			seen[got[0].id]++
		}
		if len(seen) != 9 {
			t.Errorf("%d files took the turn in 9 attempts: one that nobody takes must not stay the first", len(seen))
		}
		shut = false
		time.Sleep(10 * time.Minute)
		if got := attempts(); len(got) != n {
			t.Errorf("%d attempts after the destination works again, want all %d", len(got), n)
		}
		if st := s.Status(); st.Files != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

func TestReplay_one_file_that_is_returned_does_not_keep_the_others_of_its_destination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		poison := to(t, s, "x", "k") // the oldest
		for range 20 {
			to(t, s, "x", "k")
		}
		attempts, end := observed(t, s, func(d *mail.Delivery) (Verdict, error) {
			if d.ID == poison.ID {
				return Returned, errors.New("NO_ROUTE")
			}
			return Done, nil
		})
		defer end()
		if got := attempts(); len(got) != 1 {
			t.Fatalf("%d attempts", len(got))
		}
		time.Sleep(5 * time.Second)
		attempts()
		if st := s.Status(); st.Files != 1 || st.Retrying != 1 {
			t.Errorf("status %+v", st)
		}
		time.Sleep(time.Hour)
		if got := attempts(); len(got) < 5 || len(got) > 20 {
			t.Errorf("the poison was tried %d times in an hour", len(got))
		}
		later := to(t, s, "x", "k")
		time.Sleep(maxBackOff)
		got := attempts()
		if !slices.ContainsFunc(got, func(a attempt) bool { return a.id == later.ID }) || s.Status().Files != 1 {
			t.Errorf("attempts %v, status %+v", got, s.Status())
		}
	})
}

func TestReplay_passes_over_an_exchange_that_is_unusable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &someBroker{}
		s, err := Open(Options{Dir: spoolDir(t), Broker: broker})
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, s)
		shut := "shut"
		broker.unusable.Store(&shut)
		for i := range 10 {
			to(t, s, "shut", strconv.Itoa(i))
			to(t, s, "open", "k")
		}
		attempts, end := observed(t, s, func(*mail.Delivery) (Verdict, error) { return Done, nil })
		defer end()
		time.Sleep(time.Hour)
		if got := attempts(); len(got) != 10 || s.Status().Files != 10 || s.Status().Retrying != 0 {
			t.Errorf("%d attempts, status %+v", len(got), s.Status())
		}
		broker.unusable.Store(nil)
		time.Sleep(blockedPause)
		if got := attempts(); len(got) != 10 || s.Status().Files != 0 {
			t.Errorf("%d attempts, status %+v", len(got), s.Status())
		}
	})
}

func TestReplay_gives_way_to_live_mail_and_is_never_slower_than_20_a_second(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &someBroker{}
		s, err := Open(Options{Dir: spoolDir(t), Broker: broker})
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, s)
		for range 1000 {
			to(t, s, "x", "k")
		}
		broker.busy.Store(true)
		attempts, end := observed(t, s, func(*mail.Delivery) (Verdict, error) { return Done, nil })
		defer end()
		time.Sleep(10 * time.Second)
		if n := len(attempts()); n < 200 || n > 201 {
			t.Errorf("%d attempts in 10 s beside live mail, want 20 a second", n)
		}
		broker.busy.Store(false)
		time.Sleep(time.Second)
		if n := s.Status().Files; n != 0 {
			t.Errorf("%d files are left a second after live mail ended", n)
		}
	})
}

func TestReplay_keeps_replay_rate_which_may_change(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		for range 2000 {
			to(t, s, "x", "k")
		}
		s.SetLimits(Limits{ReplayRate: 50})
		attempts, end := observed(t, s, func(*mail.Delivery) (Verdict, error) { return Done, nil })
		defer end()
		time.Sleep(10 * time.Second)
		if n := len(attempts()); n < 495 || n > 505 {
			t.Errorf("%d attempts in 10 s at 50 a second", n)
		}
		s.SetLimits(Limits{ReplayRate: 10})
		time.Sleep(10 * time.Second)
		if n := len(attempts()); n < 97 || n > 103 {
			t.Errorf("%d attempts in 10 s at 10 a second", n)
		}
		s.SetLimits(Limits{})
		time.Sleep(time.Second)
		if n := s.Status().Files; n != 0 {
			t.Errorf("%d files are left a second after the limit ended", n)
		}
	})
}

func TestReplay_keeps_attempts_and_the_last_error_for_who_asks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		d := to(t, s, "x", "k")
		verdict := Later
		attempts, end := observed(t, s, func(*mail.Delivery) (Verdict, error) { return verdict, errors.New("queue full") })
		defer end()
		attempts()
		time.Sleep(7 * time.Second)
		attempts()
		e, err := s.describe(d.ID)
		if err != nil || e.Attempts != 2 || e.LastError != "queue full" || e.NextTry.Sub(time.Now()) != 8*time.Second {
			t.Errorf("entry %+v, error %v", e, err)
		}
		s.Retry()
		if n := len(attempts()); n != 1 {
			t.Errorf("%d attempts after Retry", n)
		}
		verdict = Undecided
		s.Retry(d.ID, uuid.New())
		attempts()
		if e, err := s.describe(d.ID); err != nil || e.Attempts != 3 || !e.NextTry.IsZero() {
			t.Errorf("entry %+v, error %v", e, err)
		}
		s.Settle(d.ID, false)
		if e, err := s.describe(d.ID); err != nil || e.Attempts != 4 || e.LastError != "queue full" {
			t.Errorf("entry %+v, error %v", e, err)
		}
	})
}
