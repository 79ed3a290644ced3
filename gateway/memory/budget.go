package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrExhausted tells that octets were not to be had in time, or never will be: more were asked for than there are.
var ErrExhausted = errors.New("message memory exhausted")

const (
	patience  = 5 * time.Second // the longest wait of all but the oldest message
	unlimited = 1 << 60         // more octets than any machine has, and far from where sums of them wrap
)

// Budget bounds the octets of mail that are held at once. Octets are granted to the oldest message first, and that one waits as
// long as it must: so that one always comes to its end, however many want what there is.
type Budget struct {
	// guarded by mu, as is all of its Shares, Holds and waiters
	mu       sync.Mutex
	total    int64
	used     int64
	born     uint64   // Holds so far: the age of the next one
	oldest   *Hold    // of a list that ends with the youngest
	youngest *Hold    //
	waiting  []*Share // those with waiters, in no order
}

// Share is a listener's part of a Budget.
type Share struct {
	budget  *Budget
	yields  bool // to all who do not
	max     int64
	used    int64
	waiters []*waiter // the oldest message's first
}

// Hold is what one message has of a Share. Its methods may be called from several goroutines. A nil *Hold holds nothing, and
// is given whatever it asks for.
type Hold struct {
	share          *Share
	age            uint64 // the lower, the older
	octets         int64
	released       bool
	older, younger *Hold
}

// waiter is a message that waits for octets.
type waiter struct {
	hold    *Hold
	octets  int64
	granted chan struct{} // closed when it has them
}

// NewBudget returns a Budget of total octets; 0 is no limit.
func NewBudget(total int64) *Budget { return &Budget{total: limit(total)} }

func limit(octets int64) int64 {
	if octets <= 0 || octets > unlimited {
		return unlimited
	}
	return octets
}

// Resize changes the octets there are. What is held over them stays held.
func (b *Budget) Resize(total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total = limit(total)
	b.grant()
}

// Used returns the octets held now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Share returns a part of b that holds no more than max octets at once, but for one message alone, which always fits. 0 is no
// limit of its own.
func (b *Budget) Share(max int64) *Share { return &Share{budget: b, max: limit(max)} }

// Yielding is Share for messages that can be tried later. Whoever else waits goes first, and none of them waits for more than 5 s.
// One that asks for more than the whole Budget is given the whole, when nobody has any of it.
func (b *Budget) Yielding(max int64) *Share {
	s := b.Share(max)
	s.yields = true
	return s
}

// Resize changes the octets that s may hold. What is held over them stays held.
func (s *Share) Resize(max int64) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.max = limit(max)
	s.budget.grant()
}

// Used returns the octets that s holds now.
func (s *Share) Used() int64 {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.used
}

// Hold begins a message with n octets, at least those of the smallest buffer. It waits for them until ctx ends, at most 5 s:
// then the error is ErrExhausted. A nil Share gives a nil Hold.
func (s *Share) Hold(ctx context.Context, n int64) (*Hold, error) {
	if s == nil {
		return nil, nil
	}
	b := s.budget
	b.mu.Lock()
	h := &Hold{share: s, age: b.born, older: b.youngest}
	b.born++
	if b.youngest == nil {
		b.oldest = h
	} else {
		b.youngest.younger = h
	}
	b.youngest = h
	b.mu.Unlock()
	if err := h.take(ctx, max(n, smallest), false); err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

// Grow adds n octets. It waits for them until ctx ends; for all but the oldest message at most 5 s: then the error is
// ErrExhausted, and h has what it had. It is ErrExhausted at once where there is not as much in the whole Budget.
func (h *Hold) Grow(ctx context.Context, n int64) error {
	if h == nil || n == 0 {
		return nil
	}
	return h.take(ctx, n, true)
}

// take adds n octets to h, waiting for them. inside tells that the message is under way, and so may be one that waits on.
func (h *Hold) take(ctx context.Context, n int64, inside bool) error {
	b := h.share.budget
	b.mu.Lock()
	if h.share.yields {
		n = min(n, b.total-h.octets)
	}
	if n > b.total-h.octets {
		b.mu.Unlock()
		return ErrExhausted
	}
	if len(b.waiting) == 0 && b.fits(h, n) {
		b.add(h, n)
		b.mu.Unlock()
		return nil
	}
	w := &waiter{hold: h, octets: n, granted: make(chan struct{})}
	b.queue(w)
	b.grant()
	b.mu.Unlock()
	return w.wait(ctx, inside)
}

// wait returns nil when w has its octets.
func (w *waiter) wait(ctx context.Context, inside bool) error {
	b := w.hold.share.budget
	t := time.NewTimer(patience)
	defer t.Stop()
	for {
		var err error
		select {
		case <-w.granted:
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("wait for message memory: %w", context.Cause(ctx))
		case <-t.C:
			err = ErrExhausted
		}
		b.mu.Lock()
		if err == ErrExhausted && inside && w.first() {
			t.Reset(patience)
			b.mu.Unlock()
			continue
		}
		left := b.leave(w)
		b.mu.Unlock()
		if !left {
			return nil // granted meanwhile
		}
		return err
	}
}

// first tells whether w waits on when its patience is at its end: the oldest message of all does, and the oldest of a share while
// only that share's younger ones are in its way. The caller holds mu.
func (w *waiter) first() bool {
	h := w.hold
	b := h.share.budget
	if h.share.yields {
		return false
	}
	oldest := b.oldest
	for oldest.share.yields { // it comes to its end without more
		oldest = oldest.younger
	}
	if w.octets <= b.total-b.used {
		for oldest.share != h.share {
			oldest = oldest.younger
		}
	}
	return h == oldest && w.octets <= b.total-h.octets
}

// Shrink gives n octets back.
func (h *Hold) Shrink(n int64) {
	if h == nil {
		return
	}
	b := h.share.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > h.octets {
		panic("memory: more is given back than was held")
	}
	b.add(h, -n)
	b.grant()
}

// Release gives everything back, once. The message is gone, and others are older.
func (h *Hold) Release() {
	if h == nil {
		return
	}
	b := h.share.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if h.released {
		panic("memory: hold released twice")
	}
	h.released = true
	if h.older == nil {
		b.oldest = h.younger
	} else {
		h.older.younger = h.younger
	}
	if h.younger == nil {
		b.youngest = h.older
	} else {
		h.younger.older = h.older
	}
	h.older, h.younger = nil, nil
	b.add(h, -h.octets)
	b.grant()
}

// held returns the octets of h.
func (h *Hold) held() int64 {
	h.share.budget.mu.Lock()
	defer h.share.budget.mu.Unlock()
	return h.octets
}

// add counts n octets for h. The caller holds mu.
func (b *Budget) add(h *Hold, n int64) {
	h.octets += n
	h.share.used += n
	b.used += n
}

// fits tells whether h may have n octets now, if nobody is before it. The caller holds mu.
func (b *Budget) fits(h *Hold, n int64) bool { return n <= b.total-b.used && h.share.fits(h, n) }

// fits does so for the share alone. A message whose share holds nothing else may have more than the share.
func (s *Share) fits(h *Hold, n int64) bool { return n <= s.max-s.used || s.used == h.octets }

// queue puts w in its share's line, behind older messages. The caller holds mu.
func (b *Budget) queue(w *waiter) {
	s := w.hold.share
	if len(s.waiters) == 0 {
		b.waiting = append(b.waiting, s)
	}
	i := len(s.waiters)
	for i > 0 && s.waiters[i-1].hold.age > w.hold.age {
		i--
	}
	s.waiters = slices.Insert(s.waiters, i, w)
}

// leave takes w out of the line, and grants to those behind it what it was in the way of. It is false where w was granted.
// The caller holds mu.
func (b *Budget) leave(w *waiter) bool {
	if !b.unqueue(w) {
		return false
	}
	b.grant()
	return true
}

func (b *Budget) unqueue(w *waiter) bool {
	s := w.hold.share
	i := slices.Index(s.waiters, w)
	if i < 0 {
		return false
	}
	s.waiters = slices.Delete(s.waiters, i, i+1)
	if len(s.waiters) == 0 {
		i := slices.Index(b.waiting, s)
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	return true
}

// before tells whether w is served first of two that each share has room for. The caller holds mu.
func (w *waiter) before(other *waiter) bool {
	if w.hold.share.yields != other.hold.share.yields {
		return other.hold.share.yields
	}
	return w.hold.age < other.hold.age
}

// grant gives what there is to the oldest messages. Nobody overtakes an older one that waits for the budget, lest a stream of
// small ones starve it; one that only waits for its own share is in nobody else's way. The caller holds mu.
func (b *Budget) grant() {
	for {
		var next *waiter
		for _, s := range b.waiting {
			w := s.waiters[0]
			if s.fits(w.hold, w.octets) && (next == nil || w.before(next)) {
				next = w
			}
		}
		if next == nil || next.octets > b.total-b.used {
			return
		}
		b.unqueue(next)
		b.add(next.hold, next.octets)
		close(next.granted)
	}
}
