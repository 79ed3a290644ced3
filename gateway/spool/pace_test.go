package spool

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

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

func TestReplay_tries_one_file_at_a_time_and_rests_while_live_mail_is_under_way(t *testing.T) {
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
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var running, most, tried atomic.Int32
		go func() {
			done <- s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(10 * time.Millisecond)
				running.Add(-1)
				tried.Add(1)
				return Done, nil
			})
		}()
		time.Sleep(45 * time.Millisecond)
		broker.live.Store(true)
		time.Sleep(20 * time.Millisecond) // what was under way ends
		most.Store(0)
		before := tried.Load()
		time.Sleep(time.Second)
		if n := tried.Load() - before; most.Load() > 1 || n < 24 || n > 26 { // 10 ms each, and three times that of rest
			t.Errorf("%d files in a second, %d at once, want one after the other, with rests", n, most.Load())
		}
		broker.live.Store(false)
		time.Sleep(time.Second)
		if n := s.Status().Files; n != 0 {
			t.Errorf("%d files are left a second after live mail ended", n)
		}
		cancel()
		<-done
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
		var undecided atomic.Bool
		attempts, end := observed(t, s, func(*mail.Delivery) (Verdict, error) {
			if undecided.Load() {
				return Undecided, errors.New("queue full")
			}
			return Later, errors.New("queue full")
		})
		defer end()
		attempts()
		time.Sleep(7 * time.Second)
		attempts()
		e, err := s.describe(t.Context(), d.ID)
		if err != nil || e.Attempts != 2 || e.LastError != "queue full" || time.Until(e.NextTry) != 8*time.Second {
			t.Errorf("entry %+v, error %v", e, err)
		}
		s.Retry()
		if n := len(attempts()); n != 1 {
			t.Errorf("%d attempts after Retry", n)
		}
		undecided.Store(true)
		s.Retry(d.ID, uuid.New())
		attempts()
		if e, err := s.describe(t.Context(), d.ID); err != nil || e.Attempts != 3 || !e.NextTry.IsZero() {
			t.Errorf("entry %+v, error %v", e, err)
		}
		s.Settle(d.ID, false)
		if e, err := s.describe(t.Context(), d.ID); err != nil || e.Attempts != 4 || e.LastError != "queue full" {
			t.Errorf("entry %+v, error %v", e, err)
		}
	})
}
