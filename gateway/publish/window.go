package publish

import "sync"

const (
	windowMessages = 1024
	windowOctets   = 64 << 20
)

// window bounds what is published and not confirmed, in messages and octets. It has one taker.
type window struct {
	room chan struct{} // holds a token when the taker should look again

	// guarded by mu
	mu       sync.Mutex
	messages int
	octets   int64
}

func newWindow() *window { return &window{room: make(chan struct{}, 1)} }

// take admits a message of n octets if there is room. One is always admitted into an empty window.
func (w *window) take(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.messages > 0 && (w.messages >= windowMessages || w.octets+n > windowOctets) {
		return false
	}
	w.messages++
	w.octets += n
	return true
}

// give takes a message of n octets out again.
func (w *window) give(n int64) {
	w.mu.Lock()
	w.messages--
	w.octets -= n
	w.mu.Unlock()
	select {
	case w.room <- struct{}{}:
	default:
	}
}

func (w *window) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.messages
}
