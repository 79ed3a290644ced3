package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

// emptyPoll is how often a spool that takes no more mail is looked at, to close it when it is empty.
const emptyPoll = time.Second

// store is the spool in use, and those before it that still hold mail: each is replayed until it is empty.
type store struct {
	log    *slog.Logger
	resend func(context.Context, *spool.Spool, *mail.Delivery) (spool.Verdict, error)
	ready  func(context.Context) error // returns when the broker takes mail
	tasks  sync.WaitGroup

	ctx  context.Context // of the replays
	stop context.CancelFunc

	// guarded by mu
	mu     sync.Mutex
	spools []*directory // the one in use first
}

// directory is one spool and where it is.
type directory struct {
	*spool.Spool
	path   string
	cancel context.CancelFunc // ends its replay
}

// storeChange is a spool that is opened, or one that is there already, to take mail from the commit on.
type storeChange struct {
	store  *store
	path   string
	opened *spool.Spool // nil where path is open already
}

func (s *store) prepare(path string) (*storeChange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index(path) >= 0 {
		return &storeChange{store: s, path: path}, nil
	}
	opened, err := spool.Open(spool.Options{Dir: path, Log: s.log})
	if err != nil {
		return nil, fmt.Errorf("spool.dir: %w", err)
	}
	return &storeChange{store: s, path: path, opened: opened}, nil
}

func (s *store) index(path string) int {
	return slices.IndexFunc(s.spools, func(d *directory) bool { return d.path == path })
}

// Commit lets the spool take mail, and begins its replay.
func (c *storeChange) Commit() {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.opened == nil {
		if i := s.index(c.path); i > 0 {
			d := s.spools[i]
			s.spools = slices.Insert(slices.Delete(s.spools, i, i+1), 0, d)
		}
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	d := &directory{Spool: c.opened, path: c.path, cancel: cancel}
	s.spools = slices.Insert(s.spools, 0, d)
	s.tasks.Go(func() { s.replay(ctx, d) })
	if len(s.spools) == 2 {
		s.tasks.Go(s.closeEmpty)
	}
}

// Abort closes what prepare opened.
func (c *storeChange) Abort() {
	if c.opened != nil {
		_ = c.opened.Close()
	}
}

// replay sends what is in d whenever the broker takes mail, until ctx ends.
func (s *store) replay(ctx context.Context, d *directory) {
	try := func(ctx context.Context, m *mail.Delivery) (spool.Verdict, error) { return s.resend(ctx, d.Spool, m) }
	for s.ready(ctx) == nil {
		if err := d.Replay(ctx, try); err != nil && ctx.Err() == nil {
			s.log.Debug("replay interrupted", "dir", d.path, "error", err)
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
		s.mu.Lock()
		var empty []*directory
		current := s.spools[0]
		s.spools = slices.DeleteFunc(s.spools, func(d *directory) bool {
			status := d.Status()
			done := d != current && status.Files == 0 && !status.Indexing
			if done {
				empty = append(empty, d)
			}
			return done
		})
		last := len(s.spools) == 1
		s.mu.Unlock()
		for _, d := range empty {
			d.cancel()
			if err := d.Close(); err != nil {
				s.log.Error("a spool that is not in use any more did not close", "dir", d.path, "error", err)
				continue
			}
			s.log.Info("spool empty and closed: its mail is delivered", "dir", d.path)
		}
		if last {
			return
		}
	}
}

// put writes d to the spool in use. settle is to be told what became of it.
func (s *store) put(d *mail.Delivery) (settle func(id uuid.UUID, confirmed bool), err error) {
	for {
		s.mu.Lock()
		current := s.spools[0]
		s.mu.Unlock()
		err = current.Put(d)
		if !errors.Is(err, spool.ErrClosed) || s.ctx.Err() != nil {
			return current.Settle, err
		}
	}
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
	s.stop()
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
