// Package memory holds the octets of mail: buffers that are pooled, counted by references and given back once.
// It does not know what a mail is.
package memory

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	minClass = 13 // 8 KiB: the smallest buffer worth pooling
	maxClass = 22 // 4 MiB: larger ones are left to the garbage collector
)

var pools [maxClass + 1]sync.Pool

// Buffer returns an empty slice with room for at least n octets, from a pool where one fits.
func Buffer(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minClass)
	if class > maxClass {
		return make([]byte, 0, n)
	}
	if b, ok := pools[class].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// Recycle gives a buffer back. The caller must hold the only reference to it.
func Recycle(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < minClass || class > maxClass || cap(b) != 1<<class {
		return
	}
	pools[class].Put(&b)
}

// Content is the octets of one mail. Whoever writes it owns it alone; after that it is shared by counted references and not changed.
type Content struct {
	octets []byte
	prefix int
	refs   atomic.Int32
}

// NewContent returns a Content that begins with prefix (the Received field, which no size limit counts) and has room for
// size octets behind it. Its one reference is the caller's.
func NewContent(prefix []byte, size int) *Content {
	c := &Content{octets: append(Buffer(len(prefix)+size), prefix...), prefix: len(prefix)}
	c.refs.Store(1)
	return c
}

// Octets returns the whole mail, the prefix included.
func (c *Content) Octets() []byte { return c.octets }

// Body returns what the client sent, the prefix left out.
func (c *Content) Body() []byte { return c.octets[c.prefix:] }

// Room returns the free octets behind the content, at least n: the buffer is replaced by a larger one where it must be.
func (c *Content) Room(n int) []byte {
	if cap(c.octets)-len(c.octets) < n {
		grown := append(Buffer(max(2*cap(c.octets), len(c.octets)+n)), c.octets...)
		Recycle(c.octets)
		c.octets = grown
	}
	return c.octets[len(c.octets):cap(c.octets)]
}

// Extend takes the first n octets of Room into the content.
func (c *Content) Extend(n int) { c.octets = c.octets[:len(c.octets)+n] }

// Truncate cuts Body to n octets.
func (c *Content) Truncate(n int) { c.octets = c.octets[:c.prefix+n] }

// Retain adds a reference and returns c.
func (c *Content) Retain() *Content {
	c.refs.Add(1)
	return c
}

// Release gives up a reference; the last one gives the buffer back. To release more often than retained is a bug, and panics.
func (c *Content) Release() {
	switch n := c.refs.Add(-1); {
	case n == 0:
		Recycle(c.octets)
		c.octets = nil
	case n < 0:
		panic("memory: content released twice")
	}
}
