package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

// emptyPoll is how often a spool that takes no more mail is looked at, to close it when it is empty.
const emptyPoll = time.Second

// badPoll is how often the directory of one that holds nothing but unreadable files is looked at: its operator may take them away, or
// put them back.
const badPoll = 30 * time.Second

// lockPatience is how long a daemon waits for a spool that somebody has open: "lsmtpd spool" without a daemon, as a rule.
const lockPatience = 5 * time.Second

// replayPause is how long a replay that was stopped waits: what stopped it may be more than what ready tells of.
const replayPause = time.Second

// store is the spool in use, and those before it that still hold mail: each is replayed until it is empty.
type store struct {
	log    *slog.Logger
	memory *memory.Share // of mail that is read back
	resend func(context.Context, *spool.Spool, *mail.Delivery) (spool.Verdict, error)
	ready  func(context.Context) error // returns when the broker takes mail
	broker *broker
	tasks  sync.WaitGroup

	patience time.Duration // with a directory that another process has open

	ctx  context.Context // of the replays
	stop context.CancelFunc

	changing sync.Mutex // held by who opens spools, or writes what one remembers; taken before mu

	// guarded by mu
	mu      sync.Mutex
	spools  []*directory      // the one in use first
	lost    map[string]string // paths of those before it that cannot be opened, and why
	limits  spool.Limits
	closing bool // closeEmpty runs
}

// directory is one spool and where it is.
type directory struct {
	*spool.Spool
	path   string             // absolute
	cancel context.CancelFunc // ends its replay; nil before that began
	done   chan struct{}      // closed when that has ended

	// guarded by the store's mu
	remembers []string      // paths: what its file of predecessors says
	looked    time.Time     // at what is in it, for badPoll
	forgot    bool          // that cannot be read: it is left as it is, and so is the spool
	wanted    bool          // a change is about to put it in use
	puts      int           // under way: Status does not count their files yet
	closed    chan struct{} // nil until it is being closed; closed when that is done
}

// storeChange is a spool that takes mail from the commit on, within limits. It may be open already.
type storeChange struct {
	store    *store
	dir      *directory
	limits   spool.Limits
	opened   []*directory      // predecessors of dir that were not open
	lost     map[string]string // those that cannot be opened, and why
	noted    bool              // dir remembers more than before
	before   []string          // what it remembered then
	warnings []string
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

// prepare opens the spool at path where it is not open, and has it remember those that are: a start after the commit must find
// the mail in them.
func (s *store) prepare(path string, limits spool.Limits) (*storeChange, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	c, err := s.openFor(path, limits)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	running := len(s.spools) > 0
	want := s.predecessors(c)
	s.mu.Unlock()
	if slices.Equal(want, c.before) {
		return c, nil
	}
	c.noted = true
	// A start remembers already what it opens, but for predecessors of predecessors: closeEmpty sees to these.
	if err := s.remember(c.dir, want); err != nil && running {
		c.abort()
		return nil, fmt.Errorf("spool %s: note where mail was spooled before: %w", c.dir.path, err)
	}
	return c, nil
}

// openFor opens what is to be open once mail is spooled at path. The caller holds changing.
func (s *store) openFor(path string, limits spool.Limits) (*storeChange, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	c := &storeChange{store: s, limits: limits, lost: map[string]string{}}
	if c.dir = s.want(path); c.dir == nil {
		if c.dir, err = s.openAt(spool.Options{Dir: path, Limits: limits, Patience: s.patience}); err != nil {
			return nil, err
		}
		c.openPredecessors()
	}
	c.before = c.dir.remembers
	c.warn()
	return c, nil
}

// want returns the spool that is open at path, and keeps it open for a change; nil where there is none.
func (s *store) want(path string) *directory {
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
	}
	return d
}

// openAt opens a spool that is not open.
func (s *store) openAt(o spool.Options) (*directory, error) {
	o.Memory = s.memory
	if o.Log = s.log; s.broker != nil {
		o.Broker = s.broker
	}
	d := &directory{path: o.Dir, done: make(chan struct{})}
	o.Beside = func(listener string) spool.Usage { return s.beside(d, listener) }
	var err error
	if d.Spool, err = spool.Open(o); err != nil {
		return nil, err
	}
	return d, nil
}

// beside returns what waits in all spools but d.
func (s *store) beside(d *directory, listener string) (all spool.Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.spools {
		if other != d {
			u := other.Usage(listener)
			all.Octets += u.Octets
			all.Listener += u.Listener
		}
	}
	return all
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
	d.wanted, s.limits = false, c.limits
	others := slices.DeleteFunc(s.spools, func(other *directory) bool { return other == d })
	s.spools = append(slices.Insert(others, 0, d), c.opened...)
	s.lose(c.lost)
	for _, d := range s.spools {
		d.SetLimits(c.limits)
		s.beginReplay(d)
	}
	if !s.alone() && !s.closing {
		s.closing = true
		s.tasks.Go(s.closeEmpty)
	}
}

// beginReplay replays d from now on, if that has not begun. The caller holds mu.
func (s *store) beginReplay(d *directory) {
	if d.cancel != nil {
		return
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(s.ctx)
	s.tasks.Go(func() { s.replay(ctx, d) })
}

// Abort closes what prepare opened, and leaves nothing of what it wrote.
func (c *storeChange) Abort() {
	c.store.changing.Lock()
	defer c.store.changing.Unlock()
	c.abort()
}

func (c *storeChange) abort() {
	s := c.store
	if c.noted && !c.dir.forgot {
		if err := s.remember(c.dir, c.before); err != nil {
			s.log.Warn("a spool that was not put in use remembers predecessors", "dir", c.dir.path, "error", err)
		}
	}
	for _, d := range c.opened {
		_ = d.Close()
	}
	s.mu.Lock()
	c.dir.wanted = false
	opened := c.dir.cancel == nil
	s.mu.Unlock()
	if opened {
		_ = c.dir.Abandon()
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

// closeEmpty closes the spools that are not in use any more and hold nothing, until there are none, and has the one in use
// remember the others.
func (s *store) closeEmpty() {
	tick := time.NewTicker(emptyPoll)
	defer tick.Stop()
	var told string
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		s.findLost()
		s.lookForBad()
		err := s.rememberOpen()
		if err == nil { // what one that closes remembers is noted in the one in use
			for _, d := range s.beginClosing() {
				s.closeOne(d)
			}
			s.endClosing()
			err = s.rememberOpen()
		}
		if text := errorText(err); text != told {
			if told = text; err != nil {
				s.log.Error("cannot note which spools are replayed besides the one in use", "error", err)
			}
		}
		if s.finish() {
			return
		}
	}
}

// closeOne closes a spool that beginClosing returned.
func (s *store) closeOne(d *directory) {
	d.cancel()
	<-d.done
	err := d.Remember(nil)
	if err = errors.Join(err, d.Close()); err != nil {
		s.log.Error("a spool that is not in use any more did not close", "dir", d.path, "error", err)
		return
	}
	s.log.Info("spool empty and closed: its mail is delivered", "dir", d.path)
}

// lookForBad looks again at the spools that hold unreadable files and nothing else, and are not in use any more.
func (s *store) lookForBad() {
	var due []*directory
	s.mu.Lock()
	for _, d := range s.spools[1:] {
		if st := d.Status(); st.Unreadable > 0 && st.Files == 0 && time.Since(d.looked) >= badPoll {
			d.looked = time.Now()
			due = append(due, d)
		}
	}
	s.mu.Unlock()
	for _, d := range due {
		d.Look(s.ctx)
	}
}

// beginClosing returns the spools that are to be closed: neither in use nor about to be, and empty. Unreadable files keep one open:
// nobody else would tell of them.
func (s *store) beginClosing() []*directory {
	s.mu.Lock()
	defer s.mu.Unlock()
	var empty []*directory
	for _, d := range s.spools[1:] {
		st := d.Status()
		left := st.Files + st.NoDestination + st.Unremoved + st.Unreadable
		if !d.wanted && !d.forgot && d.puts == 0 && left == 0 && !st.Indexing {
			d.closed = make(chan struct{})
			empty = append(empty, d)
		}
	}
	return empty
}

// endClosing forgets the spools that were closed.
func (s *store) endClosing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spools = slices.DeleteFunc(s.spools, func(d *directory) bool {
		if d.closed == nil {
			return false
		}
		close(d.closed)
		return true
	})
}

// finish tells whether only the spool in use is left, and nothing for closeEmpty to do.
func (s *store) finish() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = !s.alone()
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

// status tells of every spool, the one in use first, those that cannot be opened last.
func (s *store) status() []spool.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]spool.Status, len(s.spools))
	for i, d := range s.spools {
		all[i] = d.Status()
	}
	for _, path := range slices.Sorted(maps.Keys(s.lost)) {
		all = append(all, spool.Status{Dir: spool.Shown(path), NotOpen: s.lost[path]})
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
	for i, d := range s.spools {
		if st := d.Status(); i > 0 && st.Files+st.NoDestination > 0 {
			s.log.Warn("mail waits in a spool that is not in use any more: the next start replays it",
				"dir", d.path, "files", st.Files+st.NoDestination, "octets", st.Octets)
		}
		errs = append(errs, d.Close())
	}
	s.spools = nil
	return errors.Join(errs...)
}
