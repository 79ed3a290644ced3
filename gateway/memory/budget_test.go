package memory

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

const kib = 1 << 10

// begin returns a Hold that must be had at once.
func begin(t testing.TB, s *Share, n int64) *Hold {
	t.Helper()
	h, err := s.Hold(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// growing has h grow, and returns where its error comes.
func growing(ctx context.Context, h *Hold, n int64) chan error {
	grown := make(chan error, 1)
	go func() { grown <- h.Grow(ctx, n) }()
	synctest.Wait()
	return grown
}

func waits(grown chan error) bool {
	synctest.Wait()
	return len(grown) == 0
}

func TestGrowthIsGrantedToTheOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewBudget(100 * kib).Share(0)
		old, young, rest := begin(t, s, 20*kib), begin(t, s, 20*kib), begin(t, s, 60*kib)
		youngGrown := growing(t.Context(), young, 10*kib) // asks first
		oldGrown := growing(t.Context(), old, 20*kib)
		rest.Shrink(10 * kib)
		if !waits(youngGrown) {
			t.Fatal("the younger one overtook the older one")
		}
		rest.Shrink(10 * kib)
		if waits(oldGrown) || !waits(youngGrown) {
			t.Fatal("what was given back did not go to the oldest")
		}
		rest.Release()
		if err := <-youngGrown; err != nil {
			t.Fatal(err)
		}
		old.Release()
		young.Release()
		if n := s.Used(); n != 0 {
			t.Errorf("%d octets are left", n)
		}
	})
}

func TestTheOldestWaitsUntilItsContextEndsAndOthersForFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewBudget(100 * kib).Share(0)
		old, young := begin(t, s, 50*kib), begin(t, s, 50*kib)
		ctx, cancel := context.WithCancelCause(t.Context())
		oldGrown, youngGrown := growing(ctx, old, 10*kib), growing(t.Context(), young, 10*kib)
		begun := time.Now()
		third, err := s.Hold(t.Context(), 10*kib)
		if !errors.Is(err, ErrExhausted) || third != nil || time.Since(begun) != patience {
			t.Errorf("a third one: %v after %v", err, time.Since(begun))
		}
		if err := <-youngGrown; !errors.Is(err, ErrExhausted) {
			t.Errorf("the younger one: %v", err)
		}
		time.Sleep(time.Hour)
		if !waits(oldGrown) {
			t.Fatal("the oldest did not wait")
		}
		cut := errors.New("cut")
		cancel(cut)
		if err := <-oldGrown; !errors.Is(err, cut) {
			t.Errorf("the oldest: %v", err)
		}
		old.Release()
		young.Release()
	})
}

func TestTheYoungerOneWaitsOnOnceItIsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewBudget(100 * kib).Share(0)
		old, young, youngest := begin(t, s, 30*kib), begin(t, s, 30*kib), begin(t, s, 40*kib)
		grown := growing(t.Context(), young, 40*kib)
		time.Sleep(patience - 1)
		old.Release()
		time.Sleep(time.Minute)
		if !waits(grown) {
			t.Fatal("the oldest did not wait")
		}
		youngest.Release()
		if err := <-grown; err != nil {
			t.Fatal(err)
		}
		young.Release()
	})
}

func TestAShareCannotTakeAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(400 * kib)
		greedy, modest := b.Share(100*kib), b.Share(100*kib)
		first, second := begin(t, greedy, 60*kib), begin(t, greedy, 40*kib)
		if _, err := greedy.Hold(t.Context(), 10*kib); !errors.Is(err, ErrExhausted) {
			t.Errorf("over its share: %v", err)
		}
		grown := growing(t.Context(), first, 20*kib)
		h, err := modest.Hold(t.Context(), 90*kib) // younger, and of another share
		if err != nil {
			t.Fatalf("a share that waits for itself stands in another's way: %v", err)
		}
		second.Release()
		if err := <-grown; err != nil {
			t.Fatal(err)
		}
		first.Release()
		h.Release()
	})
}

// The oldest of a share that is in its own way waits on even where another share's message is older.
func TestTheOldestOfAFullShareComesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(400 * kib)
		elsewhere := begin(t, b.Share(0), 8*kib)
		s := b.Share(100 * kib)
		old, young := begin(t, s, 50*kib), begin(t, s, 50*kib)
		oldGrown, youngGrown := growing(t.Context(), old, 200*kib), growing(t.Context(), young, 10*kib)
		if err := <-youngGrown; !errors.Is(err, ErrExhausted) || !waits(oldGrown) {
			t.Fatalf("the younger one: %v; the older one waits: %v", err, waits(oldGrown))
		}
		time.Sleep(time.Minute)
		young.Release()
		if err := <-oldGrown; err != nil {
			t.Fatal(err)
		}
		old.Release()
		elsewhere.Release()
	})
}

func TestOneMessageAlwaysFitsInItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100 * kib)
		s := b.Share(10 * kib)
		h := begin(t, s, 50*kib)
		if err := h.Grow(t.Context(), 50*kib); err != nil {
			t.Errorf("alone, and larger than its share: %v", err)
		}
		begun := time.Now()
		if err := h.Grow(t.Context(), 1); !errors.Is(err, ErrExhausted) || time.Since(begun) != 0 {
			t.Errorf("more than there is at all: %v after %v", err, time.Since(begun))
		}
		h.Release()
		if _, err := s.Hold(t.Context(), 101*kib); !errors.Is(err, ErrExhausted) || time.Since(begun) != 0 {
			t.Errorf("more than there is at all: %v after %v", err, time.Since(begun))
		}
	})
}

func TestWhatCanBeTriedLaterGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100 * kib)
		replay, live := b.Yielding(50*kib), b.Share(0)
		full := begin(t, live, 80*kib)
		first := make(chan error, 1)
		go func() {
			h, err := replay.Hold(t.Context(), 40*kib)
			h.Release()
			first <- err
		}()
		if !waits(first) {
			t.Fatal("it was given more than there is")
		}
		young := begin(t, live, 20*kib) // overtakes
		grown := growing(t.Context(), young, 30*kib)
		full.Shrink(40 * kib)
		if waits(grown) || !waits(first) {
			t.Fatal("live mail waited for one that can be tried later")
		}
		full.Release()
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		young.Release()
		if n := b.Used(); n != 0 {
			t.Errorf("%d octets are left", n)
		}
	})
}

func TestTheOldestMessageIsNoneThatCanBeTriedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100 * kib)
		replayed := begin(t, b.Yielding(0), 50*kib)
		h := begin(t, b.Share(0), 20*kib)
		grown := growing(t.Context(), h, 60*kib)
		if time.Sleep(2 * patience); !waits(grown) {
			t.Fatal("the oldest live message gave up behind a replayed one")
		}
		replayed.Release()
		if err := <-grown; err != nil {
			t.Fatal(err)
		}
		h.Release()
	})
}

func TestOneThatCanBeTriedLaterFitsWhenNothingElseIsHeld(t *testing.T) {
	s := NewBudget(100 * kib).Yielding(25 * kib)
	h := begin(t, s, 500*kib)
	if n := s.Used(); n != 100*kib {
		t.Errorf("%d octets are held", n)
	}
	h.Release()
}

func TestResizeIsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		s := b.Share(0)
		h := begin(t, s, 1<<50)
		b.Resize(100 * kib)
		grown := make(chan error, 1)
		go func() {
			other, err := s.Hold(t.Context(), 50*kib)
			other.Release()
			grown <- err
		}()
		if !waits(grown) {
			t.Fatal("granted over the new budget")
		}
		h.Shrink(1<<50 - 60*kib)
		if !waits(grown) {
			t.Fatal("granted over the new budget")
		}
		b.Resize(110 * kib)
		if err := <-grown; err != nil {
			t.Fatal(err)
		}
		s.Resize(70 * kib)
		next := growing(t.Context(), begin(t, s, 10*kib), 10*kib)
		if !waits(next) {
			t.Fatal("granted over the new share")
		}
		s.Resize(0)
		if err := <-next; err != nil {
			t.Fatal(err)
		}
	})
}

func TestNobodyWaitsBehindAMessageThatGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewBudget(100 * kib).Share(0)
		oldest, old, young := begin(t, s, 60*kib), begin(t, s, 10*kib), begin(t, s, 10*kib)
		ctx, cancel := context.WithCancel(t.Context())
		large, small := growing(ctx, old, 60*kib), growing(t.Context(), young, 10*kib)
		if !waits(small) {
			t.Fatal("the younger one overtook the older one")
		}
		cancel()
		if err := <-large; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := <-small; err != nil {
			t.Fatal(err)
		}
		oldest.Release()
		old.Release()
		young.Release()
	})
}

func TestWhoNeedsNothingDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewBudget(100 * kib).Share(0)
		old, young := begin(t, s, 50*kib), begin(t, s, 50*kib)
		grown := growing(t.Context(), old, 10*kib)
		if err := young.Grow(t.Context(), 0); err != nil || !waits(grown) {
			t.Errorf("nothing was not to be had: %v", err)
		}
		young.Release()
		if err := <-grown; err != nil {
			t.Error(err)
		}
		old.Release()
	})
}

func TestWithoutAShareNothingIsHeld(t *testing.T) {
	var s *Share
	h, err := s.Hold(context.Background(), 1<<62)
	if h != nil || err != nil {
		t.Fatal(h, err)
	}
	if err := h.Grow(context.Background(), 1<<62); err != nil {
		t.Error(err)
	}
	h.Shrink(1)
	h.Release()
	h.Release()
}

func TestWhatIsGivenBackWasHeld(t *testing.T) {
	s := NewBudget(0).Share(0)
	h := begin(t, s, 10*kib)
	mustPanic(t, "more was given back than held", func() { h.Shrink(11 * kib) })
	h.Release()
	mustPanic(t, "released twice", h.Release)
}

// Any number of messages that begin, grow, shrink and end, with budget and shares resized meanwhile: the budget is never
// exceeded, nobody is left waiting, and every message comes to its end or is told in time that it cannot.
func TestMessagesOfAllKindsShareABudget(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		messages := rapid.IntRange(1, 40).Draw(rt, "messages")
		synctest.Test(t, func(t *testing.T) { crowd(t, seed, messages) })
	})
}

func crowd(t *testing.T, seed uint64, messages int) {
	const total = 1000 * kib
	b := NewBudget(total)
	shares := []*Share{b.Share(0), b.Share(250 * kib), b.Share(100 * kib)}
	done := make(chan bool, messages)
	for i := range messages {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		s := shares[random.IntN(len(shares))]
		go func() {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
			done <- live(t, random, s)
		}()
	}
	random := rand.New(rand.NewPCG(seed, 1<<32))
	ended := 0
	for range messages {
		if s := shares[1]; random.IntN(4) == 0 {
			s.Resize(int64(101+random.IntN(400)) * kib) // never what checkBounds knows the share by that keeps its size
		}
		if <-done {
			ended++
		}
	}
	if ended == 0 {
		t.Error("not one message came to its end")
	}
	if b.used != 0 || b.oldest != nil || b.youngest != nil || len(b.waiting) != 0 {
		t.Errorf("left behind: %d octets, %d shares that wait", b.used, len(b.waiting))
	}
}

// live is one message's life. It tells whether it came to its end.
func live(t *testing.T, random *rand.Rand, s *Share) bool {
	h, err := s.Hold(t.Context(), int64(random.IntN(100))*kib)
	if err != nil {
		return false
	}
	defer h.Release()
	for range random.IntN(8) {
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		if random.IntN(3) == 0 {
			h.Shrink(h.held() / 2)
			continue
		}
		begun := time.Now()
		err := h.Grow(t.Context(), int64(random.IntN(100))*kib)
		if err != nil {
			if waited := time.Since(begun); waited%patience != 0 {
				t.Errorf("told after %v", waited)
			}
			return false
		}
		checkBounds(t, s)
	}
	return true
}

// checkBounds tells what is over its bounds. The bounds of a share may have been lowered under what it holds.
func checkBounds(t *testing.T, s *Share) {
	t.Helper()
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > b.total {
		t.Errorf("%d octets of %d are held", b.used, b.total)
	}
	sum, holders := int64(0), 0
	for h := b.oldest; h != nil; h = h.younger {
		if h.share == s && h.octets > 0 {
			sum += h.octets
			holders++
		}
	}
	if sum != s.used {
		t.Errorf("a share's messages hold %d octets, and it counts %d", sum, s.used)
	}
	if s.max == 100*kib && s.used > s.max && holders > 1 {
		t.Errorf("%d messages hold %d octets of a share of %d", holders, s.used, s.max)
	}
}

func BenchmarkHold(b *testing.B) {
	s := NewBudget(1 << 30).Share(0)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			h, err := s.Hold(context.Background(), 64*kib)
			if err != nil {
				b.Fatal(err)
			}
			h.Release()
		}
	})
}
