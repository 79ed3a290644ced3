package memory

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestABufferHasRoomAndIsEmpty(t *testing.T) {
	for _, n := range []int{0, 1, 1 << minClass, 1<<minClass + 1, 1 << maxClass, 1<<maxClass + 1, 10 << 20} {
		for range 2 { // fresh, and perhaps from the pool
			b := Buffer(n)
			if len(b) != 0 || cap(b) < n {
				t.Errorf("asked for %d: length %d, capacity %d", n, len(b), cap(b))
			}
			Recycle(b)
		}
	}
	Recycle(nil)
	Recycle(make([]byte, 0, 12345)) // of no class: left to the garbage collector
}

func TestContentKeepsItsOctetsHoweverItGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "prefix")
		c := NewContent(prefix, rapid.IntRange(0, 1<<15).Draw(t, "size"))
		var want []byte
		for _, piece := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 20000), 0, 10).Draw(t, "pieces") {
			room := c.Room(len(piece))
			if len(room) < len(piece) {
				t.Fatalf("room for %d, asked for %d", len(room), len(piece))
			}
			c.Extend(copy(room, piece))
			want = append(want, piece...)
		}
		if !bytes.Equal(c.Body(), want) || !bytes.Equal(c.Octets(), append(bytes.Clone(prefix), want...)) {
			t.Fatal("octets differ")
		}
		cut := rapid.IntRange(0, len(want)).Draw(t, "cut")
		if c.Truncate(cut); !bytes.Equal(c.Body(), want[:cut]) {
			t.Fatal("not cut where asked")
		}
		c.Release()
	})
}

func TestContentLivesUntilItsLastReferenceIsReleased(t *testing.T) {
	c := NewContent([]byte("prefix"), 0)
	c.Retain()
	c.Release()
	if string(c.Octets()) != "prefix" {
		t.Error("gone with a reference left")
	}
	c.Release()
	if c.Octets() != nil {
		t.Error("there without a reference")
	}
	defer func() {
		if recover() == nil {
			t.Error("released once more, and nobody noticed")
		}
	}()
	c.Release()
}
