package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/mail"
)

// How much a watcher that is slow may leave waiting; beyond either, copies are left out.
const (
	maxCopies     = 1000
	maxCopyOctets = 32 << 20
)

// Copy is one AMQP message that the broker confirmed.
type Copy struct {
	MessageID   string         `json:"message_id"`
	Exchange    string         `json:"exchange"`
	RoutingKey  string         `json:"routing_key"`
	ContentType string         `json:"content_type"`
	Timestamp   time.Time      `json:"timestamp"`
	Headers     map[string]any `json:"headers,omitempty"`
	Body        []byte         `json:"body"`
	LeftOut     uint64         `json:"left_out,omitempty"` // that came before this one and were too much
}

// watchers get a copy of each confirmed delivery. The zero value is ready, and costs one load a delivery while there are none.
type watchers struct {
	present atomic.Int32

	// guarded by mu
	mu     sync.Mutex
	all    map[*watcher]struct{}
	closed bool
}

type watcher struct {
	copies chan Copy
	octets atomic.Int64 // of those in copies

	// guarded by the watchers' mu
	leftOut uint64
}

// Watch calls begun, and from then on each with every delivery that the broker confirms, until ctx ends, the gateway has
// stopped, or one of the two returns an error, which is then Watch's. It never slows the mail down: see Copy.LeftOut.
func (g *Gateway) Watch(ctx context.Context, begun func() error, each func(Copy) error) error {
	w := g.watchers.add()
	defer g.watchers.remove(w)
	if err := begun(); err != nil {
		return err
	}
	for {
		select {
		case c, more := <-w.copies:
			if !more {
				return nil
			}
			w.octets.Add(-int64(len(c.Body)))
			if err := each(c); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (ws *watchers) add() *watcher {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := &watcher{copies: make(chan Copy, maxCopies)}
	if ws.closed {
		close(w.copies)
		return w
	}
	if ws.all == nil {
		ws.all = map[*watcher]struct{}{}
	}
	ws.all[w] = struct{}{}
	ws.present.Add(1)
	return w
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, watching := ws.all[w]; watching {
		delete(ws.all, w)
		ws.present.Add(-1)
	}
}

// close ends every Watch once it has told what it holds.
func (ws *watchers) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for w := range ws.all {
		close(w.copies)
		delete(ws.all, w)
		ws.present.Add(-1)
	}
}

// tell gives every watcher a copy of d, which was confirmed.
func (ws *watchers) tell(d *mail.Delivery) {
	if ws.present.Load() == 0 {
		return
	}
	c := Copy{
		MessageID: d.ID.String(), Exchange: d.Exchange, RoutingKey: d.RoutingKey, ContentType: d.ContentType(),
		Timestamp: d.Envelope.ReceivedAt, Headers: d.AMQPHeaders(), Body: d.AppendPayload(make([]byte, 0, d.Size())),
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		w.offer(c)
	}
}

// later returns what tells of d when it is confirmed after its sender has gone, and must be called once. It keeps the content
// only where somebody watches.
func (ws *watchers) later(d *mail.Delivery) func(confirmed bool) {
	if ws.present.Load() == 0 {
		return func(bool) {}
	}
	content := d.Content.Retain()
	return func(confirmed bool) {
		if confirmed {
			ws.tell(d)
		}
		content.Release()
	}
}

// offer gives w a copy, or counts it where w is too slow for it.
func (w *watcher) offer(c Copy) {
	size := int64(len(c.Body))
	if waiting := w.octets.Load(); waiting > 0 && waiting+size > maxCopyOctets {
		w.leftOut++
		return
	}
	c.LeftOut = w.leftOut
	select {
	case w.copies <- c:
		w.octets.Add(size)
		w.leftOut = 0
	default:
		w.leftOut++
	}
}
