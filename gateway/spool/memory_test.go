package spool

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
)

// lean opens a Spool whose mail is read back within a quarter of a budget of total octets.
func lean(t *testing.T, dir string, total int64) (*Spool, *memory.Budget) {
	t.Helper()
	b := memory.NewBudget(total)
	s, err := Open(Options{Dir: dir, Memory: b.Yielding(total / 4)})
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func TestReplay_holds_no_more_memory_than_its_share(t *testing.T) {
	const total, files = 16 << 20, 24
	s, b := lean(t, spoolDir(t), total)
	defer mustClose(t, s)
	formats := []string{mail.JSON, mail.Raw}
	for i := range files {
		putReady(t, s, formats[i%2], string(bytes.Repeat([]byte{'x', byte(200 * (i % 3 / 2))}, 200<<10)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var most, tries atomic.Int64
	err := s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		held := b.Used()
		if held < int64(cap(d.Content.Octets())) {
			t.Errorf("%d octets are held beside a content of %d", held, cap(d.Content.Octets()))
		}
		for was := most.Load(); held > was && !most.CompareAndSwap(was, held); was = most.Load() {
		}
		if tries.Add(1) == files {
			cancel()
		}
		return Done, nil
	})
	if !errors.Is(err, context.Canceled) || most.Load() > total/4 {
		t.Errorf("%v; %d octets were held at once", err, most.Load())
	}
	if n := b.Used(); n != 0 {
		t.Errorf("%d octets are left", n)
	}
}

func TestReplay_that_finds_no_memory_tries_later_and_notes_no_failure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 1 << 20
		s, b := lean(t, spoolDir(t), total)
		defer mustClose(t, s)
		d := putReady(t, s, mail.JSON, "x")
		live, err := b.Share(0).Hold(t.Context(), total)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		tried := false
		go func() {
			ended <- s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
				tried = true
				cancel()
				return Done, nil
			})
		}()
		time.Sleep(time.Minute + 2*time.Second) // 5 s of waiting, and 5 of rest: it waits now
		if tried {
			t.Fatal("it was tried without memory")
		}
		e, err := s.describe(t.Context(), d.ID)
		if err != nil || e.Attempts != 0 || e.LastError != "" {
			t.Errorf("entry %+v, %v", e, err)
		}
		if _, err := s.Try(t.Context(), d.ID, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("an operator's try beside it: %v", err)
		}
		if _, _, err := s.Read(t.Context(), d.ID); !errors.Is(err, memory.ErrExhausted) {
			t.Errorf("read without memory: %v", err)
		}
		live.Release()
		if err := <-ended; !errors.Is(err, context.Canceled) || !tried {
			t.Errorf("replay ended with %v, tried %v", err, tried)
		}
	})
}

func TestReplay_goes_on_with_others_when_there_is_no_memory_for_the_oldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 1 << 20
		s, b := lean(t, spoolDir(t), total)
		defer mustClose(t, s)
		large := putReady(t, s, mail.JSON, string(bytes.Repeat([]byte("x"), total/2)))
		time.Sleep(time.Second)
		small := putReady(t, s, mail.JSON, "x")
		live, err := b.Share(0).Hold(t.Context(), total/2)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var order []uuid.UUID
		_ = s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
			if order = append(order, d.ID); len(order) == 1 {
				live.Release()
				return Done, nil
			}
			cancel()
			return Done, nil
		})
		if len(order) != 2 || order[0] != small.ID || order[1] != large.ID {
			t.Errorf("tried %v, want %v before %v", order, small.ID, large.ID)
		}
	})
}

func TestReplay_waits_for_memory_no_longer_than_its_context(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 1 << 20
		s, b := lean(t, spoolDir(t), total)
		defer mustClose(t, s)
		d := putReady(t, s, mail.JSON, "x")
		live, err := b.Share(0).Hold(t.Context(), total)
		if err != nil {
			t.Fatal(err)
		}
		defer live.Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Replay(ctx, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if e, err := s.describe(t.Context(), d.ID); err != nil || e.Attempts != 0 {
			t.Errorf("entry %+v, %v", e, err)
		}
		verdict, err := s.Try(t.Context(), d.ID, nil)
		if verdict != Later || !errors.Is(err, memory.ErrExhausted) {
			t.Errorf("an operator's try: %v, %v", verdict, err)
		}
	})
}

func TestRead_and_Redirect_give_back_what_they_held(t *testing.T) {
	s, b := lean(t, spoolDir(t), 16<<20)
	defer mustClose(t, s)
	for _, format := range []string{mail.JSON, mail.Raw} {
		for _, octets := range []string{"text", "octets \xff", string(bytes.Repeat([]byte("much "), 100<<10))} {
			m := putReady(t, s, format, octets)
			d, _, err := s.Read(t.Context(), m.ID)
			if err != nil || string(d.Content.Octets()) != octets {
				t.Fatal("not what was spooled", err)
			}
			if held := b.Used(); held != int64(cap(d.Content.Octets())) {
				t.Errorf("%s: %d octets are held for %d", format, held, cap(d.Content.Octets()))
			}
			d.Content.Release()
			if err := s.Redirect(t.Context(), m.ID, Destination{"elsewhere", ""}); err != nil {
				t.Fatal(err)
			}
			if n := b.Used(); n != 0 {
				t.Errorf("%s: %d octets are left", format, n)
			}
		}
	}
}
