package memory

import "golang.org/x/sys/unix"

// mapBuffer maps n octets, which take memory only once they are written to. Where the system does not, they are the heap's.
func mapBuffer(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return make([]byte, 0, n)
	}
	adviseHuge(b)
	return b[:0]
}

// unmapBuffer gives a mapped buffer back to the system. One of the heap is not known there, and left alone.
func unmapBuffer(b []byte) { _ = unix.Munmap(b[:cap(b)]) }

// remapBuffer changes the capacity of a mapped buffer to n without copying an octet. It is false where that cannot be.
func remapBuffer(b []byte, n int) ([]byte, bool) {
	moved, err := unix.Mremap(b[:cap(b)], n, unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil, false
	}
	adviseHuge(moved)
	return moved[:len(b)], true
}

// adviseHuge asks for huge pages: each is one fault instead of 512.
func adviseHuge(b []byte) {
	if len(b) >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}
