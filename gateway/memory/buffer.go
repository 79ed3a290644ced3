// Package memory holds the octets of mail: buffers that are pooled or mapped, counted by references and given back once, and the
// budget that bounds them. It does not know what a mail is.
package memory

import (
	"math/bits"
	"sync"
)

const (
	minClass  = 13            // 8 KiB: the smallest buffer worth pooling
	maxClass  = 18            // 256 KiB: larger ones are mapped
	maxPooled = 1 << maxClass // octets
	pageSize  = 4 << 10
)

var pools [maxClass + 1]sync.Pool

func class(n int) int { return max(bits.Len(uint(max(n, 1)-1)), minClass) }

// Capacity returns what a buffer for n octets really takes.
func Capacity(n int) int {
	if n <= maxPooled {
		return 1 << class(n)
	}
	return (n + pageSize - 1) &^ (pageSize - 1)
}

// floor returns the capacity of the largest buffer that takes no more than n octets, or of the smallest of all.
func floor(n int64) int {
	if n > maxPooled {
		return int(n &^ (pageSize - 1))
	}
	return 1 << max(bits.Len64(uint64(n))-1, minClass)
}

// Buffer returns an empty slice with room for at least n octets: from a pool, or where it is large mapped for itself, outside
// of the heap. So a large one is gone with its Recycle, and not with a garbage collection to come; but it is gone for good
// where it is appended to over its capacity, or never recycled.
func Buffer(n int) []byte {
	size := Capacity(n)
	if size > maxPooled {
		return mapBuffer(size)
	}
	if b, ok := pools[class(n)].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, size)
}

// Recycle gives a buffer back. The caller must hold the only reference to it.
func Recycle(b []byte) {
	switch n := cap(b); {
	case mapped(b):
		unmapBuffer(b)
	case n >= 1<<minClass && n&(n-1) == 0:
		pools[class(n)].Put(&b)
	}
}

// mapped tells whether a buffer is too large for a pool.
func mapped(b []byte) bool { return cap(b) > maxPooled }

// resize returns b in a buffer of n octets, at least those it has, and recycles the old one.
func resize(b []byte, n int) []byte {
	if mapped(b) && n > maxPooled {
		if moved, ok := remapBuffer(b, n); ok {
			return moved
		}
	}
	moved := append(Buffer(n), b...)
	Recycle(b)
	return moved
}
