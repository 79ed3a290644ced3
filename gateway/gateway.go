// Package gateway is the running daemon: it takes tables and mail, and owns every goroutine, socket and connection. It does
// not know where tables come from.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/listen"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/smtp"
)

// Options are what a Gateway is made with.
type Options struct {
	Log     *slog.Logger
	Version string
}

// Gateway is the daemon. Make it with New, give it a table with Apply, then Run it.
type Gateway struct {
	log       *slog.Logger
	version   string
	started   time.Time
	publisher *publish.Publisher
	store     *store
	sockets   *listen.Set
	admin     adminSocket
	auth      *authenticator
	running   atomic.Pointer[running]
	sessions  sessions
	limits    limits
	memory    *memory.Budget
	serving   sync.WaitGroup // a count for each session
	watchers  watchers

	hurrying context.Context // ends: whoever waits for the broker spools at once
	hurry    context.CancelFunc
	cutting  context.Context // ends: every connection is cut
	cut      context.CancelFunc

	showing  chan struct{}  // a token for each mail that an operator reads
	tasks    sync.WaitGroup // what an Apply left to do
	applying sync.Mutex     // one Apply at a time
	stopped  bool           // guarded by applying
}

// New returns a Gateway that does nothing yet.
func New(o Options) *Gateway {
	g := &Gateway{log: o.Log, version: o.Version, started: time.Now(), publisher: publish.New(o.Log), auth: newAuthenticator(), memory: memory.NewBudget(0),
		showing: make(chan struct{}, shownAtOnce)}
	g.sockets = &listen.Set{Handle: g.handle, Log: o.Log}
	g.admin.log = o.Log
	g.admin.ending, g.admin.end = context.WithCancel(context.Background())
	g.store = &store{memory: g.memory.Yielding(0), log: o.Log, resend: g.resend, ready: g.publisher.AwaitAvailable, broker: &broker{Publisher: g.publisher}, patience: lockPatience}
	g.store.ctx, g.store.stop = context.WithCancel(context.Background())
	g.hurrying, g.hurry = context.WithCancel(context.Background())
	g.cutting, g.cut = context.WithCancel(context.Background())
	return g
}

// limitMemory bounds the octets of mail held at once, and to a quarter of them those of mail that is read back from the spools: live
// mail goes first. 0 is no limit.
func (g *Gateway) limitMemory(octets int64) {
	g.memory.Resize(octets)
	g.store.memory.Resize(octets / 4)
}

// ServeAdmin has h served on admin.socket. It is called before the first Apply.
func (g *Gateway) ServeAdmin(h http.Handler) { g.admin.handler = h }

// Run serves what was applied until ctx ends, and then stops: no new sessions, idle ones told 421, transactions finished and
// their mail confirmed or spooled, at the latest after drain_timeout, or when Cut is called.
func (g *Gateway) Run(ctx context.Context) error {
	if g.running.Load() == nil {
		return errors.New("no table is in force")
	}
	background, stop := context.WithCancel(context.Background())
	defer stop()
	var publisher sync.WaitGroup
	publisher.Go(func() { g.publisher.Run(background) })

	<-ctx.Done()
	begun := time.Now()
	g.log.Info("stopping", "sessions", g.sessions.len(), "drain_timeout", g.running.Load().table.Config.DrainTimeout.String())
	g.applying.Lock()
	g.stopped = true
	g.applying.Unlock()
	var errs []error
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"listeners", func() error { g.sockets.Close(); return nil }},
		{"sessions", func() error { g.drain(); return nil }},
		{"replay", func() error { g.store.stopReplay(); return nil }},
		{"publisher", func() error { stop(); publisher.Wait(); return nil }},
		{"spool", g.store.close},
		{"watchers", func() error { g.watchers.close(); return nil }},
		{"admin socket", func() error { g.admin.close(); return nil }},
		{"tasks", func() error { g.cut(); g.tasks.Wait(); return nil }},
	} {
		if err := step.do(); err != nil {
			g.log.Error("while stopping", "step", step.name, "error", err)
			errs = append(errs, err)
		}
	}
	g.log.Info("stopped", "took_ms", milliseconds(begun))
	return errors.Join(errs...)
}

// Cut ends a drain at once: what is unconfirmed is spooled first, then the connections are cut. It may be called at any time.
func (g *Gateway) Cut() {
	g.hurry()
	g.cut()
}

// drain lets the sessions come to their end, and cuts the rest after drain_timeout. 0 waits for ever.
func (g *Gateway) drain() {
	g.sessions.stop()
	if patience := g.running.Load().table.Config.DrainTimeout; patience > 0 {
		timer := time.AfterFunc(patience, func() {
			if n := g.sessions.len(); n > 0 {
				g.log.Warn("cutting sessions that did not end within drain_timeout", "sessions", n)
			}
			g.Cut()
		})
		defer timer.Stop()
	}
	g.serving.Wait()
}

// sessions are those open now. The zero value is ready.
type sessions struct {
	// guarded by mu
	mu       sync.Mutex
	open     map[*session]struct{}
	stopping bool
}

// add registers s, and tells whether it may be served.
func (r *sessions) add(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[*session]struct{}{}
	}
	r.open[s] = struct{}{}
	return !r.stopping
}

func (r *sessions) remove(s *session) {
	r.mu.Lock()
	delete(r.open, s)
	r.mu.Unlock()
}

// all returns the sessions open now.
func (r *sessions) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.open))
}

// byAddress counts the sessions open now.
func (r *sessions) byAddress() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]int64{}
	for s := range r.open {
		counts[s.address]++
	}
	return counts
}

func (r *sessions) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// stop lets no more sessions be served and drains those that are.
func (r *sessions) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
	for s := range r.open {
		s.drain()
	}
}

// asPanic tells whether a session ended by a panic.
func asPanic(err error) (*smtp.PanicError, bool) { return errors.AsType[*smtp.PanicError](err) }
