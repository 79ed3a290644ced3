package spool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

// errDead is what a process that was killed would not even see.
var errDead = errors.New("killed")

// stepped is a directory that counts the calls and has one of them fail, or from that one on all: as if the process were killed
// there.
type stepped struct {
	directory
	mu    sync.Mutex
	at    int // the call that fails, counted from 1; 0: none
	dies  bool
	err   error
	calls []string
	died  func() // called once, at the step
}

// step tells whether this call is the one.
func (d *stepped) step(call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
	switch n := len(d.calls); {
	case n == d.at:
		if d.died != nil {
			d.died()
		}
		return d.err
	case d.at > 0 && n > d.at && d.dies:
		return d.err
	}
	return nil
}

func (d *stepped) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dies && d.at > 0 && len(d.calls) >= d.at
}

// stepCall makes one call if it is not the one that fails.
func stepCall[T any](d *stepped, call string, do func() (T, error)) (T, error) {
	if err := d.step(call); err != nil {
		var none T
		return none, err
	}
	return do()
}

func (d *stepped) create() (file, error) {
	return stepCall(d, "create", func() (file, error) {
		f, err := d.directory.create()
		return &steppedFile{f, d}, err
	})
}

func (d *stepped) open(name string) (source, error) {
	return stepCall(d, "open", func() (source, error) {
		f, err := d.directory.open(name)
		if err != nil {
			return nil, err
		}
		return &steppedSource{f, d}, nil
	})
}

func (d *stepped) free() (int64, error) { return stepCall(d, "free", d.directory.free) }

func (d *stepped) remove(name string) error {
	return d.only("remove", func() error { return d.directory.remove(name) })
}

func (d *stepped) sync() error { return d.only("sync", d.directory.sync) }

func (d *stepped) list(each func(string, bool) bool) error {
	return d.only("list", func() error { return d.directory.list(each) })
}

func (d *stepped) setAside(name, reason string) error {
	return d.only("aside", func() error { return d.directory.setAside(name, reason) })
}

func (d *stepped) only(call string, do func() error) error {
	if err := d.step(call); err != nil {
		return err
	}
	return do()
}

type steppedFile struct {
	file
	d *stepped
}

func (f *steppedFile) Write(b []byte) (int, error) {
	if err := f.d.step("write"); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	return f.file.Write(b)
}

func (f *steppedFile) WriteAt(b []byte, off int64) (int, error) {
	return stepCall(f.d, "checksum", func() (int, error) { return f.file.WriteAt(b, off) })
}

func (f *steppedFile) flush(off, n int64) error {
	return f.d.only("flush", func() error { return f.file.flush(off, n) })
}

func (f *steppedFile) Sync() error { return f.d.only("fsync", f.file.Sync) }
func (f *steppedFile) link(name string) error {
	return f.d.only("link", func() error { return f.file.link(name) })
}
func (f *steppedFile) replace(name string) error {
	return f.d.only("replace", func() error { return f.file.replace(name) })
}

func (f *steppedFile) Close() error {
	if named, ok := f.file.(*namedFile); ok && f.d.dead() {
		named.temp = "" // nobody is left to take the name away
	}
	return f.file.Close()
}

type steppedSource struct {
	source
	d *stepped
}

func (f *steppedSource) ReadAt(b []byte, off int64) (int, error) {
	return stepCall(f.d, "read", func() (int, error) { return f.source.ReadAt(b, off) })
}

// accounts is what the promise is about: which files must still be there, and which must not.
type accounts struct {
	mu   sync.Mutex
	owed map[uuid.UUID]bool // put and not done with; false: removed for good
}

func (a *accounts) set(id uuid.UUID, owed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owed[id] = owed
}

func (a *accounts) done(id uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.owed, id)
}

// check compares a with what is in s, a spool opened anew. Every file that it lists can be read.
func (a *accounts) check(t *testing.T, s *Spool, what string) {
	t.Helper()
	indexedNow(s)
	found := map[uuid.UUID]bool{}
	for e, err := range s.Entries(t.Context()) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		d, _, err := s.Read(t.Context(), e.ID)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		d.Content.Release()
		found[e.ID] = true
	}
	for id, owed := range a.owed {
		if owed != found[id] {
			t.Errorf("%s: %s is there: %v, want %v", what, id, found[id], owed)
		}
	}
	if st := s.Status(); st.Unreadable > 0 {
		t.Errorf("%s: status %+v", what, st)
	}
}

// work does with s what a daemon and its operator do, and notes in a what was promised and what was done with.
func work(t *testing.T, s *Spool, a *accounts) {
	indexedNow(s)
	var all sync.WaitGroup
	ids := make([]uuid.UUID, 6)
	for i := range ids {
		lines := 100
		if i >= 4 {
			lines = piece / len("text\r\n") // it is written in pieces
		}
		d := someDelivery([]string{mail.JSON, mail.Raw}[i%2], []byte(strings.Repeat("text\r\n", lines)))
		d.RoutingKey = fmt.Sprint(i)
		ids[i] = d.ID
		all.Go(func() {
			if s.Put(d) == nil {
				a.set(d.ID, true)
				if i == 0 {
					a.done(d.ID) // before: from Settle on it may go
				}
				s.Settle(d.ID, i == 0)
			}
			d.Content.Release()
		})
	}
	all.Wait()
	a.done(ids[1]) // an error leaves open whether it is removed
	if s.Remove(ids[1]) == nil {
		a.set(ids[1], false)
	}
	_ = s.Redirect(t.Context(), ids[2], Destination{"elsewhere", "a.longer.key.than.it.was.before"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_ = s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		if d.ID == ids[3] {
			return Returned, nil
		}
		a.done(d.ID)
		return Done, nil
	})
}

func TestNo_promise_is_broken_whichever_system_call_fails_or_is_the_last(t *testing.T) {
	for _, c := range []struct {
		named, dies bool
		err         error
	}{
		{named: false, dies: true, err: errDead}, {named: true, dies: true, err: errDead},
		{named: false, err: syscall.EIO}, {named: true, err: syscall.ENOSPC}, {named: false, err: syscall.EMFILE},
	} {
		t.Run(fmt.Sprintf("named %v, %v", c.named, c.err), func(t *testing.T) {
			for at := 1; ; at++ {
				if calls := oneStep(t, &stepped{at: at, dies: c.dies, err: c.err}, c.named); len(calls) < at {
					if at < 50 || !slices.Contains(calls, "replace") || !slices.Contains(calls, "read") || !slices.Contains(calls, "flush") || !slices.Contains(calls, "checksum") {
						t.Errorf("only %d calls were made: %v", len(calls), calls)
					}
					return
				}
			}
		})
	}
}

// oneStep lets a spool work on d, whose call d.at fails, and looks at what is left. It returns the calls made.
func oneStep(t *testing.T, d *stepped, named bool) (calls []string) {
	synctest.Test(t, func(t *testing.T) {
		dir := spoolDir(t)
		real, err := openDirectory(dir)
		if err != nil {
			t.Fatal(err)
		}
		real.named, d.directory = named, real
		s := start(Options{Dir: dir}, d)
		a := &accounts{owed: map[uuid.UUID]bool{}}
		work(t, s, a)
		_ = s.Close()
		calls = d.calls
		what := fmt.Sprintf("%v at call %d of %v", d.err, d.at, calls[:min(d.at, len(calls))])

		s = mustOpen(t, dir)
		a.check(t, s, what)
		mustClose(t, s)
		for _, name := range files(t, dir) {
			if strings.HasSuffix(name, ".tmp") {
				t.Errorf("%s: %s is left", what, name)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return calls
}

func (a *accounts) copy() map[uuid.UUID]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.owed)
}
