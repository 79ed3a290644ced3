package memory

import (
	"context"
	"sync/atomic"
)

// Content is the octets of one mail. Whoever writes it owns it alone; after that it is shared by counted references and not changed.
type Content struct {
	octets   []byte
	prefix   int
	hold     *Hold
	reserved int64 // of hold, from the beginning: kept until Fit
	held     int64 // of hold, for octets
	refs     atomic.Int32
}

// NewContent returns a Content that begins with prefix (the Received field, which no size limit counts) and makes ready for
// size octets behind it, as far as they are held. It owns h, which may be nil, from now on. Its one reference is the caller's.
func NewContent(prefix []byte, size int, h *Hold) *Content {
	c := &Content{prefix: len(prefix), hold: h}
	n := Capacity(len(prefix) + size)
	if h != nil {
		c.reserved = h.held()
		c.held = c.reserved
		n = max(min(n, floor(c.held)), Capacity(len(prefix)))
	}
	c.octets = append(Buffer(n), prefix...)
	c.refs.Store(1)
	return c
}

// Octets returns the whole mail, the prefix included.
func (c *Content) Octets() []byte { return c.octets }

// Body returns what the client sent, the prefix left out.
func (c *Content) Body() []byte { return c.octets[c.prefix:] }

// Hold returns what the octets are held with, for whoever needs more for this mail: the encoded payload.
func (c *Content) Hold() *Hold { return c.hold }

// HeldBy tells that c, which nothing holds yet, is held by h, as are spare octets that its owner needs beside it. The rest of h is
// given back. c owns h, which may be nil, from now on.
func (c *Content) HeldBy(h *Hold, spare int64) {
	if h == nil {
		return
	}
	c.hold, c.held = h, h.held()
	c.giveBack(int64(cap(c.octets)) + spare)
}

// Unheld takes from c what holds it, which is the caller's then; nil where nothing does.
func (c *Content) Unheld() *Hold {
	h := c.hold
	c.hold, c.reserved, c.held = nil, 0, 0
	return h
}

// Grow makes Room for at least n octets, where it must in a larger buffer, for which it may wait as Hold.Grow does. After an
// error the content is what it was.
func (c *Content) Grow(ctx context.Context, n int) error {
	if cap(c.octets)-len(c.octets) >= n {
		return nil
	}
	size := Capacity(max(len(c.octets)+n, cap(c.octets)+step(cap(c.octets))))
	need := int64(size)
	if !moves(c.octets, size) {
		need += int64(cap(c.octets)) // both are there while the octets are copied
	}
	if need > c.held {
		if err := c.hold.Grow(ctx, need-c.held); err != nil {
			return err
		}
		c.held = need
	}
	c.octets = resize(c.octets, size)
	c.giveBack(max(int64(size), c.reserved))
	return nil
}

// step is by how much a buffer of n octets grows at least: it doubles while it is copied then, a large one may grow by less.
func step(n int) int {
	if n < hugePage {
		return n
	}
	return n / 4
}

// giveBack keeps n octets of the hold.
func (c *Content) giveBack(n int64) {
	if c.held > n {
		c.hold.Shrink(c.held - n)
		c.held = n
	}
}

// Room returns the free octets behind the content.
func (c *Content) Room() []byte { return c.octets[len(c.octets):cap(c.octets)] }

// Extend takes the first n octets of Room into the content.
func (c *Content) Extend(n int) { c.octets = c.octets[:len(c.octets)+n] }

// Truncate cuts Body to n octets.
func (c *Content) Truncate(n int) { c.octets = c.octets[:c.prefix+n] }

// Fit tells that the content is whole: what it did not need is given back, where that costs no copy, or a small one.
func (c *Content) Fit() {
	if size := Capacity(len(c.octets)); size < cap(c.octets) && (moves(c.octets, size) || size <= cap(c.octets)/4) {
		c.octets = resize(c.octets, size)
	}
	c.giveBack(int64(cap(c.octets)))
}

// Discard empties Body and gives back all but the smallest buffer: what follows is read and thrown away.
func (c *Content) Discard() {
	small := append(Buffer(c.prefix), c.octets[:c.prefix]...)
	Recycle(c.octets)
	c.octets = small
	c.reserved = 0
	c.giveBack(int64(cap(small)))
}

// Retain adds a reference and returns c.
func (c *Content) Retain() *Content {
	c.refs.Add(1)
	return c
}

// Release gives up a reference; the last one gives the buffer back, and what was held. To release more often than retained is a
// bug, and panics.
func (c *Content) Release() {
	switch n := c.refs.Add(-1); {
	case n == 0:
		Recycle(c.octets)
		c.octets = nil
		c.hold.Release()
	case n < 0:
		panic("memory: content released twice")
	}
}
