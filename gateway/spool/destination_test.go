package spool

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

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
		var open atomic.Bool
		for range n {
			to(t, s, "x", "nobody")
			to(t, s, "x", "somebody")
		}
		attempts, end := observed(t, s, func(d *mail.Delivery) (Verdict, error) {
			if d.RoutingKey == "nobody" && !open.Load() {
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
			time.Sleep(time.Nanosecond)
			got := attempts()
			if len(got) != 1 {
				t.Fatalf("%d attempts after a pause of %d s, want one", len(got), pause)
			}
			seen[got[0].id]++
		}
		if len(seen) != 9 {
			t.Errorf("%d files took the turn in 9 attempts: one that nobody takes must not stay the first", len(seen))
		}
		open.Store(true)
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

func TestReplay_of_a_destination_that_never_confirms_takes_one_place_of_the_window(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, spoolDir(t))
		defer mustClose(t, s)
		for range 200 {
			to(t, s, "x", "silent") // the oldest ones
		}
		for range 200 {
			to(t, s, "x", "good")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var waiting, most atomic.Int32
		go func() {
			done <- s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
				if d.RoutingKey == "good" {
					return Done, nil
				}
				most.Store(max(most.Load(), waiting.Add(1)))
				time.Sleep(15 * time.Second)
				waiting.Add(-1)
				return Undecided, errors.New("not confirmed in time")
			})
		}()
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if st := s.Status(); st.Files != 200 || st.Held != 1 {
			t.Errorf("status %+v: the others should be delivered", st)
		}
		time.Sleep(time.Hour)
		if n := most.Load(); n != 1 {
			t.Errorf("%d files waited for a confirm at once", n)
		}
		cancel()
		<-done
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
