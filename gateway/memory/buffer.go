// Package memory holds the octets of mail: buffers that are used again, counted by references and given back once, and the budget
// that bounds them. It does not know what a mail is.
package memory

import (
	"math/bits"
	"sync"
)

// Buffers are of three kinds. Small ones are of the heap, and pooled. Medium ones are mapped outside of it, and some are kept for
// their next use: their pages cost more to get than to fill. Large ones are mapped of whole huge pages, which are cheap to get,
// and go back to the system at once: not with a garbage collection to come, which would leave the next ones no room.
const (
	minClass  = 13 // 8 KiB: the smallest buffer worth pooling
	maxClass  = 21 // 2 MiB: larger ones are multiples of that, a huge page
	smallest  = 1 << minClass
	maxPooled = 256 << 10
	hugePage  = 1 << maxClass
	maxKept   = 32 << 20 // octets of medium ones
)

var pools [maxClass + 1]sync.Pool // of small ones, by class

var kept struct {
	sync.Mutex
	buffers [maxClass + 1][][]byte
	octets  int
}

// class is the power of two that takes n octets.
func class(n int) int { return max(bits.Len(uint(max(n, 1)-1)), minClass) }

// Capacity returns what a buffer for n octets really takes.
func Capacity(n int) int {
	if n <= hugePage {
		return 1 << class(n)
	}
	return (n + hugePage - 1) &^ (hugePage - 1)
}

// floor returns the capacity of the largest buffer that takes no more than n octets, or of the smallest of all.
func floor(n int64) int {
	if n >= hugePage {
		return int(n &^ (hugePage - 1))
	}
	return 1 << max(bits.Len64(uint64(n))-1, minClass)
}

// Buffer returns an empty slice with room for at least n octets. One that is not small is gone for good where it is appended to
// over its capacity, or never recycled.
func Buffer(n int) []byte {
	size := Capacity(n)
	switch {
	case size > hugePage:
		return mapBuffer(size)
	case size > maxPooled:
		if b := takeKept(class(n)); b != nil {
			return b
		}
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
	case n < smallest || n != Capacity(n):
	case n <= maxPooled:
		pools[class(n)].Put(&b)
	case n > hugePage || !keep(b):
		unmapBuffer(b)
	}
}

func takeKept(class int) []byte {
	kept.Lock()
	defer kept.Unlock()
	last := len(kept.buffers[class]) - 1
	if last < 0 {
		return nil
	}
	b := kept.buffers[class][last]
	kept.buffers[class] = kept.buffers[class][:last]
	kept.octets -= cap(b)
	return b[:0]
}

// keep keeps a medium buffer, if there are few.
func keep(b []byte) bool {
	kept.Lock()
	defer kept.Unlock()
	if kept.octets+cap(b) > maxKept {
		return false
	}
	kept.octets += cap(b)
	kept.buffers[class(cap(b))] = append(kept.buffers[class(cap(b))], b)
	return true
}

// moves tells whether a buffer may become one of n octets without a copy.
func moves(b []byte, n int) bool { return cap(b) >= hugePage && n >= hugePage }

// resize returns b in a buffer of n octets, at least those it has, and recycles the old one.
func resize(b []byte, n int) []byte {
	if moves(b, n) {
		if moved, ok := remapBuffer(b, n); ok {
			return moved
		}
	}
	moved := append(Buffer(n), b...)
	Recycle(b)
	return moved
}
