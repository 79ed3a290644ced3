//go:build !linux

package memory

// Elsewhere large buffers are the heap's.

func mapBuffer(n int) []byte { return make([]byte, 0, n) }

func unmapBuffer([]byte) {}

func remapBuffer([]byte, int) ([]byte, bool) { return nil, false }
