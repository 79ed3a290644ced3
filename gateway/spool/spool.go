// Package spool keeps deliveries on disk while the broker does not take them: one file each, found again after a crash, replayed
// oldest first. It does not know the broker: who replays says what became of each.
package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
)

// ErrClosed tells that the spool was closed.
var ErrClosed = errors.New("spool is closed")

// Options say where a Spool is.
type Options struct {
	Dir      string        // made where it is missing; its path is taken as it is given
	Existing bool          // Dir is what another spool noted as its predecessor: it may be no path, and is not made where it is missing
	Patience time.Duration // how long a directory that another process has open is waited for: an operator's command may be about to end
	Log      *slog.Logger  // nil logs nothing
	Limits   Limits        // as SetLimits has them
	Broker   Broker        // nil: one that takes no mail of others
	Memory   *memory.Share // what mail that is read back is held against; nil is no limit
	// Beside returns what other Spools hold that count against the same limits; nil where there are none. It is asked without locks.
	Beside func(listener string) Usage
}

// Spool is one directory of deliveries. Its methods may be called from any goroutine.
type Spool struct {
	path    string
	warning string
	log     *slog.Logger
	dir     directory
	broker  Broker
	memory  *memory.Share
	beside  func(listener string) Usage
	commits group
	began   time.Time

	turn       chan struct{} // a token for the Replay under way
	wake       chan struct{} // told that a file became ready
	sweep      chan struct{} // told that a file is to be removed
	rescanning chan struct{} // a token for the rescan under way
	indexed    chan struct{} // closed when every file found at start is in the index
	closing    chan struct{} // closed by Close
	tasks      sync.WaitGroup

	mu          sync.Mutex // guards what follows
	index       index
	turns       turns
	quiet       sync.Cond // told when no Put is under way
	limits      Limits
	closed      bool
	failing     error // why the disk takes nothing until a probe passes; nil where it does
	astray      error // as of the last look at the directory's path
	sticking    bool  // delivered files could not be removed, which is told
	forgot      error // why it is not known where mail was spooled before
	lastError   string
	lastErrorAt time.Time
	ofWrite     bool // lastError is a write's
	mended      bool // and one has succeeded since
	refusals    refusals
}

// refusals are the deliveries that were not taken.
type refusals struct {
	count uint64
	last  string // why
	at    time.Time
}

// Open makes the directory where it is missing, locks it and begins to read what lies in it. It refuses a directory that others
// could write to, or that another process has open; the error says what mends it. Close ends what Open began.
func Open(o Options) (*Spool, error) {
	open := openDirectory
	if o.Existing {
		open = openPredecessor
	}
	dir, err := open(o.Dir)
	if errors.Is(err, errLocked) && o.Patience > 0 && o.Log != nil {
		o.Log.Warn("the spool directory is locked: waiting for it", "dir", o.Dir, "error", err, "at_most", o.Patience.String())
	}
	for end := time.Now().Add(o.Patience); errors.Is(err, errLocked) && time.Now().Before(end); {
		time.Sleep(lockPoll)
		dir, err = open(o.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", Shown(o.Dir), err)
	}
	return start(o, dir), nil
}

func start(o Options, dir directory) *Spool {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Broker == nil {
		o.Broker = nobody{}
	}
	if o.Beside == nil {
		o.Beside = func(string) Usage { return Usage{} }
	}
	s := &Spool{
		path:       o.Dir,
		warning:    Warning(o.Dir),
		log:        o.Log,
		dir:        dir,
		broker:     o.Broker,
		memory:     o.Memory,
		beside:     o.Beside,
		commits:    group{sync: dir.sync},
		began:      time.Now(),
		turn:       make(chan struct{}, 1),
		wake:       make(chan struct{}, 1),
		sweep:      make(chan struct{}, 1),
		rescanning: make(chan struct{}, 1),
		indexed:    make(chan struct{}),
		closing:    make(chan struct{}),
		limits:     o.Limits,
	}
	s.quiet.L = &s.mu
	s.index = newIndex()
	if s.warning != "" {
		s.log.Warn(s.warning, "dir", s.path)
	}
	s.tasks.Go(s.scan)
	s.tasks.Go(s.removeSettled)
	return s
}

// Close waits for every Put under way, removes what was confirmed and gives up the lock. A Replay must have returned before it.
func (s *Spool) Close() error {
	s.end()
	return s.dir.close()
}

// Abandon is Close, and removes the directories that Open made, as far as nothing is in them.
func (s *Spool) Abandon() error {
	s.end()
	s.dir.unmake() // before the lock is given up: nobody else opens what is about to go
	return s.dir.close()
}

// end does of Close what comes before the lock is given up.
func (s *Spool) end() {
	close(s.closing)
	s.mu.Lock()
	s.closed = true
	for s.turns.writing > 0 {
		s.quiet.Wait()
	}
	s.mu.Unlock()
	s.tasks.Wait()
	s.unstick()
	for s.removeSome(removeAtOnce) {
	}
}

// Put writes d to disk. When it returns nil, the file is found again after a crash; it is held from replay until Settle. Errors
// that are ErrFull pass when there is room again. It returns ErrClosed after Close.
func (s *Spool) Put(d *mail.Delivery) error {
	if err := d.Check(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	h, text, err := newHead(d, time.Now())
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	size := int64(len(text)) + d.JSONSize()
	e, turn, err := s.begin(d.ID, h, size)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	err = s.store(fileName(d.ID), func(f file) error { return encode(f, d, text, size) })
	s.written(e, turn, err)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// Settle says what became of a publish that was not decided: the first one, of a delivery that Put wrote or still writes, or one of
// a replay that was Undecided. confirmed removes the file, whatever was said of it before; otherwise it becomes ready for replay, or
// waits for its back-off. Of a file that is not there it says nothing.
func (s *Spool) Settle(id uuid.UUID, confirmed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index.byID.get(id)
	if e == nil || e.settled == gone {
		return
	}
	if confirmed {
		s.settle(e, gone)
		return
	}
	s.settle(e, free)
}

// settle does what Settle says, now or when the file is no longer in somebody's hands. s.mu is held.
func (s *Spool) settle(e *entry, as settlement) {
	e.settled = as
	switch {
	case e.state == writing || e.state == trying:
	case as == gone:
		s.index.move(e, removing)
		signal(s.sweep)
	case e.state == held && e.tried:
		s.postpone(e, nil)
	case e.state == held:
		s.index.move(e, ready)
		signal(s.wake)
	}
}

// Status is what one look at the spool shows.
type Status struct {
	Dir           string    `json:"dir"`
	Files         int       `json:"files"` // deliveries that wait for the broker
	Octets        int64     `json:"octets"`
	Held          int       `json:"held"`               // of Files: the first publish is not decided
	Retrying      int       `json:"retrying"`           // of Files: the last replay failed for the delivery's own reason
	Oldest        time.Time `json:"oldest,omitzero"`    // of Files; zero where there is none
	Unreadable    int       `json:"unreadable"`         // files that cannot be replayed: in bad/, or left as they are
	NoDestination int       `json:"no_destination"`     // LSMTPD's own files, which do not say where to
	Unremoved     int       `json:"unremoved"`          // delivered, and the file system does not let them go: a restart would publish them again
	Ignored       int       `json:"ignored"`            // files that are not the spool's by their names, when the directory was last read
	Indexing      bool      `json:"indexing"`           // what lay there at start is not wholly counted yet
	NotOpen       string    `json:"not_open,omitempty"` // why nothing above is known: it is another spool's predecessor that cannot be opened
	Forgot        string    `json:"forgot,omitempty"`   // why it is not known where mail was spooled before, and that mail waits unseen
	Failing       string    `json:"failing,omitempty"`  // why the disk takes nothing until a test of it passes
	Astray        string    `json:"astray,omitempty"`   // why nothing is taken: the directory is not at its path any more
	Warning       string    `json:"warning,omitempty"`
	LastError     string    `json:"last_error,omitempty"` // of the file system; "" where there was none
	LastErrorAt   time.Time `json:"last_error_at,omitzero"`
	Mended        bool      `json:"last_error_mended,omitempty"` // it was of a write, and one has succeeded since
	Refused       uint64    `json:"refused"`                     // deliveries that were not taken: for a limit, or an error
	LastRefusal   string    `json:"last_refusal,omitempty"`      // why the last of them was not
	LastRefusalAt time.Time `json:"last_refusal_at,omitzero"`
}

// Status returns what the spool holds at this moment.
func (s *Spool) Status() Status {
	astray := s.dir.placed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place(astray)
	st := Status{
		Dir:           s.path,
		Files:         s.index.byAge.Len(),
		Octets:        s.index.octets,
		Held:          s.index.count[held],
		Retrying:      s.index.waiting.Len(),
		Unreadable:    s.index.count[unreadable] + s.index.bad,
		NoDestination: s.index.count[stray],
		Unremoved:     len(s.index.stuck),
		Ignored:       s.index.ignored,
		Warning:       s.warning,
		LastError:     s.lastError,
		LastErrorAt:   s.lastErrorAt,
		Mended:        s.mended,
		Refused:       s.refusals.count,
		LastRefusal:   s.refusals.last,
		LastRefusalAt: s.refusals.at,
	}
	if st.Files > 0 {
		st.Oldest = time.Unix(0, s.index.byAge.first().spooled)
	}
	if s.astray != nil {
		st.Astray = s.astray.Error()
	}
	if s.forgot != nil {
		st.Forgot = s.forgot.Error()
	}
	if s.failing != nil {
		st.Failing = s.failing.Error()
	}
	select {
	case <-s.indexed:
	default:
		st.Indexing = true
	}
	return st
}

// Warning tells why mail in this spool would not outlive a reboot; "" where nothing speaks against it.
func (s *Spool) Warning() string { return s.warning }

// noteError keeps err for Status. s.mu is held.
func (s *Spool) noteError(err error) {
	s.lastError, s.lastErrorAt, s.ofWrite, s.mended = err.Error(), time.Now(), false, false
}

// noteWrite keeps what became of a write for Status. s.mu is held.
func (s *Spool) noteWrite(err error) {
	if err == nil {
		s.mended = s.ofWrite
		return
	}
	s.noteError(err)
	s.ofWrite = true
}

// noteRefusal keeps for Status why a delivery was not taken. s.mu is held.
func (s *Spool) noteRefusal(err error) {
	s.refusals = refusals{count: s.refusals.count + 1, last: err.Error(), at: time.Now()}
}

// clock returns the nanoseconds since Open: no change of the time of day makes a back-off longer.
func (s *Spool) clock() int64 { return int64(time.Since(s.began)) }

// signal tells whoever waits on c, once however often it is told.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
