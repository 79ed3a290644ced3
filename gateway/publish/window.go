package publish

import "sync"

const (
	windowMessages = 1024
	windowOctets   = 64 << 20
)

// window bounds what is published and not confirmed, in messages and octets, all in all and for each listener: a quarter, and no
// more than what is left then, so that even many listeners whose queues do not confirm leave room for those that come later. A
// listener with nothing in it is always admitted, even where they left none: one message each is over the bounds at most. It has
// one taker.
type window struct {
	wake func() // tells the taker to look again

	// guarded by mu
	mu        sync.Mutex
	all       load
	listeners map[string]load // never an empty one
}

type load struct {
	messages int
	octets   int64
}

func newWindow(wake func()) *window { return &window{wake: wake, listeners: map[string]load{}} }

// take gives t a place, if there is room.
func (w *window) take(t *Ticket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.listeners[t.listener()]
	if !w.admits(own, t.octets) {
		return false
	}
	w.listeners[t.listener()] = load{own.messages + 1, own.octets + t.octets}
	w.all = load{w.all.messages + 1, w.all.octets + t.octets}
	t.windowed.Store(true)
	return true
}

// admits tells whether a listener that has own in the window may add octets.
func (w *window) admits(own load, octets int64) bool {
	return own.messages == 0 || own.messages < min(windowMessages/shareOf, windowMessages-w.all.messages) &&
		own.octets+octets <= min(windowOctets/shareOf, windowOctets-w.all.octets)
}

// give takes t out again.
func (w *window) give(t *Ticket) {
	w.mu.Lock()
	own := w.listeners[t.listener()]
	own = load{own.messages - 1, own.octets - t.octets}
	w.all = load{w.all.messages - 1, w.all.octets - t.octets}
	if own.messages == 0 {
		delete(w.listeners, t.listener())
	} else {
		w.listeners[t.listener()] = own
	}
	w.mu.Unlock()
	w.wake()
}

func (w *window) load() load {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all
}
