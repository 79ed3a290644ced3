package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func TestABufferHasRoomAndIsEmpty(t *testing.T) {
	for _, n := range []int{0, 1, 1 << minClass, 1<<minClass + 1, maxPooled, maxPooled + 1, hugePage, hugePage + 1, 10 << 20} {
		for range 2 { // fresh, and perhaps from the pool
			b := Buffer(n)
			if len(b) != 0 || cap(b) != Capacity(n) || cap(b) < n {
				t.Errorf("asked for %d: length %d, capacity %d", n, len(b), cap(b))
			}
			clear(b[:cap(b)]) // it can be written to
			Recycle(b)
		}
	}
	Recycle(nil)
	Recycle(make([]byte, 0, 12345))      // of no class: left to the garbage collector
	Recycle(make([]byte, 0, 2*hugePage)) // not mapped by us: left to it too
}

func TestTheLargestBufferWithinAReservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<25).Draw(t, "octets")
		got := floor(n)
		if Capacity(got) != got {
			t.Fatalf("no buffer has %d octets", got)
		}
		if int64(got) > max(n, smallest) || int64(Capacity(got+1)) <= n {
			t.Fatalf("within %d octets is a buffer of %d, and one of %d", n, got, Capacity(got+1))
		}
	})
}

func TestContentKeepsItsOctetsHoweverItGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBudget(0)
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "prefix")
		hold, err := b.Share(0).Hold(context.Background(), rapid.Int64Range(0, 1<<20).Draw(t, "reserved"))
		if err != nil {
			t.Fatal(err)
		}
		c := NewContent(prefix, rapid.IntRange(0, 1<<20).Draw(t, "size"), hold)
		var want []byte
		piece := rapid.SliceOfN(rapid.Byte(), 1, 100)
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 1<<19), 0, 8).Draw(t, "pieces") {
			octets := bytes.Repeat(piece.Draw(t, "piece"), n/100+1)
			if err := c.Grow(context.Background(), len(octets)); err != nil {
				t.Fatal(err)
			}
			room := c.Room()
			if len(room) < len(octets) {
				t.Fatalf("room for %d, asked for %d", len(room), len(octets))
			}
			c.Extend(copy(room, octets))
			want = append(want, octets...)
			if used := b.Used(); used < int64(cap(c.octets)) {
				t.Fatalf("%d octets are held, and the buffer takes %d after piece %d", used, cap(c.octets), i)
			}
		}
		c.Fit()
		if !bytes.Equal(c.Body(), want) || !bytes.Equal(c.Octets(), append(bytes.Clone(prefix), want...)) {
			t.Fatal("octets differ")
		}
		if used := b.Used(); used != int64(cap(c.octets)) {
			t.Fatalf("%d octets are held, and the buffer takes %d", used, cap(c.octets))
		}
		if cap(c.octets) > 2*Capacity(len(c.octets)) {
			t.Fatalf("a buffer of %d octets is kept for %d", cap(c.octets), len(c.octets))
		}
		cut := rapid.IntRange(0, len(want)).Draw(t, "cut")
		if c.Truncate(cut); !bytes.Equal(c.Body(), want[:cut]) {
			t.Fatal("not cut where asked")
		}
		c.Release()
		if used := b.Used(); used != 0 {
			t.Fatalf("%d octets are held by nobody", used)
		}
	})
}

func TestContentThatMayNotGrowIsWhatItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		s := b.Share(0)
		elder := begin(t, s, 512<<10)
		h := begin(t, s, 64<<10)
		c := NewContent([]byte("prefix"), 16<<10, h)
		c.Extend(copy(c.Room(), "text"))
		if err := c.Grow(t.Context(), 1<<19); !errors.Is(err, ErrExhausted) {
			t.Fatalf("grown over the budget: %v", err)
		}
		if string(c.Octets()) != "prefixtext" {
			t.Errorf("is %q", c.Octets())
		}
		c.Discard()
		if string(c.Octets()) != "prefix" || len(c.Room()) == 0 {
			t.Errorf("%q is kept, with room for %d", c.Octets(), len(c.Room()))
		}
		if used := s.Used() - elder.octets; used != smallest {
			t.Errorf("%d octets are held for what is thrown away", used)
		}
		c.Release()
		elder.Release()
	})
}

func TestContentLivesUntilItsLastReferenceIsReleased(t *testing.T) {
	b := NewBudget(0)
	c := NewContent([]byte("prefix"), 0, begin(t, b.Share(0), 100))
	c.Retain()
	c.Release()
	if string(c.Octets()) != "prefix" || b.Used() == 0 {
		t.Error("gone with a reference left")
	}
	c.Release()
	if c.Octets() != nil || b.Used() != 0 {
		t.Error("there without a reference")
	}
	mustPanic(t, "released once more", c.Release)
}

func TestContentIsHeldByWhatCameLater(t *testing.T) {
	b := NewBudget(100 * kib)
	c, copied := NewContent(nil, 8*kib, nil), NewContent(nil, 16*kib, nil)
	c.HeldBy(begin(t, b.Share(0), 64*kib), 32*kib)
	if n := b.Used(); n != 40*kib {
		t.Errorf("%d octets are held for 8 KiB and 32 KiB beside them", n)
	}
	copied.HeldBy(c.Unheld(), 0)
	c.Release()
	if n := b.Used(); n != 16*kib {
		t.Errorf("%d octets are held for the copy", n)
	}
	copied.Release()
	if n := b.Used(); n != 0 {
		t.Errorf("%d octets are left", n)
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s, and nobody noticed", what)
		}
	}()
	f()
}

// BenchmarkContent is a mail written in pieces as they come from a socket, whose size was told before or was not.
func BenchmarkContent(b *testing.B) {
	piece := bytes.Repeat([]byte("x"), 64<<10)
	s := NewBudget(1 << 30).Share(0)
	for _, size := range []int{32 << 10, 256 << 10, 1 << 20, 10 << 20, 50 << 20} {
		for name, told := range map[string]int{"told": size, "untold": 16 << 10} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					h, err := s.Hold(b.Context(), int64(Capacity(told)))
					if err != nil {
						b.Fatal(err)
					}
					c := NewContent(nil, told, h)
					for left := size; left > 0; {
						if err := c.Grow(b.Context(), 1<<10); err != nil {
							b.Fatal(err)
						}
						n := copy(c.Room(), piece[:min(len(piece), left)])
						c.Extend(n)
						left -= n
					}
					c.Fit()
					c.Release()
				}
			})
		}
	}
}
