package gateway

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

// emptyPoll is how often a spool that takes no more mail is looked at, to close it when it is empty.
const emptyPoll = time.Second

// replayPause is how long a replay that was stopped waits: what stopped it may be more than what ready tells of.
const replayPause = time.Second

// store is the spool in use, and those before it that still hold mail: each is replayed until it is empty.
type store struct {
	log    *slog.Logger
	resend func(context.Context, *spool.Spool, *mail.Delivery) (spool.Verdict, error)
	ready  func(context.Context) error // returns when the broker takes mail
	broker *broker
	tasks  sync.WaitGroup

	ctx  context.Context // of the replays
	stop context.CancelFunc

	// guarded by mu
	mu      sync.Mutex
	spools  []*directory // the one in use first
	closing bool         // closeEmpty runs
}

// directory is one spool and where it is.
type directory struct {
	*spool.Spool
	path   string             // absolute
	cancel context.CancelFunc // ends its replay; nil before that began
	done   chan struct{}      // closed when that has ended

	// guarded by the store's mu
	wanted bool          // a change is about to put it in use
	puts   int           // under way: Status does not count their files yet
	closed chan struct{} // nil until it is being closed; closed when that is done
}

// storeChange is a spool that takes mail from the commit on, within limits. It may be open already.
type storeChange struct {
	store  *store
	dir    *directory
	limits spool.Limits
}

// spoolLimits are those that a configuration sets.
func spoolLimits(c *config.Config) spool.Limits {
	l := spool.Limits{
		MaxBytes: c.Spool.MaxBytes, MinFree: c.Spool.MinFree, ReplayRate: c.Spool.ReplayRate,
		Listeners: make(map[string]int64, len(c.Listeners)),
	}
	for i := range c.Listeners {
		l.Listeners[c.Listeners[i].Name] = c.Listeners[i].SpoolMaxBytes.Of(c.Spool.MaxBytes)
	}
	return l
}

func (s *store) prepare(path string, limits spool.Limits) (*storeChange, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.find(path)
	for d != nil && d.closed != nil {
		s.mu.Unlock()
		<-d.closed
		s.mu.Lock()
		d = s.find(path)
	}
	if d != nil {
		d.wanted = true
		return &storeChange{s, d, limits}, nil
	}
	o := spool.Options{Dir: path, Log: s.log, Limits: limits}
	if s.broker != nil {
		o.Broker = s.broker
	}
	opened, err := spool.Open(o)
	if err != nil {
		return nil, err
	}
	return &storeChange{s, &directory{Spool: opened, path: path, done: make(chan struct{})}, limits}, nil
}

// find returns the spool that is open at path, or nil. The caller holds mu.
func (s *store) find(path string) *directory {
	i := slices.IndexFunc(s.spools, func(d *directory) bool { return d.path == path })
	if i < 0 {
		return nil
	}
	return s.spools[i]
}

// Commit lets the spool take mail, and begins its replay. The limits are for those before it too: they are replayed at the new rate.
func (c *storeChange) Commit() {
	s, d := c.store, c.dir
	s.mu.Lock()
	defer s.mu.Unlock()
	d.wanted = false
	if d.cancel == nil {
		var ctx context.Context
		ctx, d.cancel = context.WithCancel(s.ctx)
		s.tasks.Go(func() { s.replay(ctx, d) })
	}
	others := slices.DeleteFunc(s.spools, func(other *directory) bool { return other == d })
	s.spools = slices.Insert(others, 0, d)
	for _, d := range s.spools {
		d.SetLimits(c.limits)
	}
	if len(s.spools) > 1 && !s.closing {
		s.closing = true
		s.tasks.Go(s.closeEmpty)
	}
}

// Abort closes what prepare opened.
func (c *storeChange) Abort() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.dir.wanted = false
	if c.dir.cancel == nil {
		_ = c.dir.Close()
	}
}

// replay sends what is in d whenever the broker takes mail, until ctx ends.
func (s *store) replay(ctx context.Context, d *directory) {
	defer close(d.done)
	try := func(ctx context.Context, m *mail.Delivery) (spool.Verdict, error) { return s.resend(ctx, d.Spool, m) }
	for s.ready(ctx) == nil {
		if err := d.Replay(ctx, try); err != nil && ctx.Err() == nil {
			s.log.Debug("replay interrupted", "dir", d.path, "error", err)
		}
		select {
		case <-time.After(replayPause):
		case <-ctx.Done():
		}
	}
}

// closeEmpty closes the spools that are not in use any more and hold nothing, until there are none.
func (s *store) closeEmpty() {
	tick := time.NewTicker(emptyPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		for _, d := range s.beginClosing() {
			d.cancel()
			<-d.done
			if err := d.Close(); err != nil {
				s.log.Error("a spool that is not in use any more did not close", "dir", d.path, "error", err)
			} else {
				s.log.Info("spool empty and closed: its mail is delivered", "dir", d.path)
			}
		}
		if s.endClosing() {
			return
		}
	}
}

// beginClosing returns the spools that are to be closed: neither in use nor about to be, and empty.
func (s *store) beginClosing() []*directory {
	s.mu.Lock()
	defer s.mu.Unlock()
	var empty []*directory
	for _, d := range s.spools[1:] {
		if status := d.Status(); !d.wanted && d.puts == 0 && status.Files == 0 && !status.Indexing {
			d.closed = make(chan struct{})
			empty = append(empty, d)
		}
	}
	return empty
}

// endClosing forgets the spools that were closed, and tells whether only the one in use is left.
func (s *store) endClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spools = slices.DeleteFunc(s.spools, func(d *directory) bool {
		if d.closed == nil {
			return false
		}
		close(d.closed)
		return true
	})
	s.closing = len(s.spools) > 1
	return !s.closing
}

// put writes d to the spool in use. settle is to be told what became of it.
func (s *store) put(d *mail.Delivery) (settle func(id uuid.UUID, confirmed bool), err error) {
	s.mu.Lock()
	current := s.spools[0]
	current.puts++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		current.puts--
		s.mu.Unlock()
	}()
	return current.Settle, current.Put(d)
}

// status tells of every spool, the one in use first.
func (s *store) status() []spool.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]spool.Status, len(s.spools))
	for i, d := range s.spools {
		all[i] = d.Status()
	}
	return all
}

// stopReplay ends every replay.
func (s *store) stopReplay() {
	s.mu.Lock() // no task begins any more: see begin
	s.stop()
	s.mu.Unlock()
	s.tasks.Wait()
}

// close closes every spool. No replay may run any more.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, d := range s.spools {
		errs = append(errs, d.Close())
	}
	s.spools = nil
	return errors.Join(errs...)
}
