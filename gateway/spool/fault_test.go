package spool

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"

	"golang.org/x/sys/unix"
)

// faulty is a directory in which one kind of call fails.
type faulty struct {
	directory
	call    atomic.Pointer[string] // "" for none
	err     error
	room    atomic.Int64 // that the file system says it has; 0: what it has
	created atomic.Int32 // files
	fsyncs  atomic.Int32
}

func (d *faulty) breaks(call string) { d.call.Store(&call) }

func (d *faulty) fault(call string) error {
	if *d.call.Load() == call {
		return d.err
	}
	return nil
}

func (d *faulty) create() (file, error) {
	if err := d.fault("create"); err != nil {
		return nil, err
	}
	d.created.Add(1)
	f, err := d.directory.create()
	return &faultyFile{f, d}, err
}

func (d *faulty) free() (int64, error) {
	if err := d.fault("free"); err != nil {
		return 0, err
	}
	if room := d.room.Load(); room != 0 {
		return room, nil
	}
	return d.directory.free()
}

func (d *faulty) setAside(name, reason string) error {
	if err := d.fault("aside"); err != nil {
		return err
	}
	return d.directory.setAside(name, reason)
}

func (d *faulty) open(name string) (source, error) {
	if err := d.fault("open"); err != nil {
		return nil, err
	}
	return d.directory.open(name)
}

func (d *faulty) remove(name string) error {
	if err := d.fault("remove"); err != nil {
		return err
	}
	return d.directory.remove(name)
}

func (d *faulty) sync() error {
	if err := d.fault("sync"); err != nil {
		return err
	}
	return d.directory.sync()
}

type faultyFile struct {
	file
	d *faulty
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.d.fault("write"); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	return f.file.Write(b)
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.d.fault("checksum"); err != nil {
		return 0, err
	}
	return f.file.WriteAt(b, off)
}

func (f *faultyFile) flush(off, n int64) error {
	if err := f.d.fault("flush"); err != nil {
		return err
	}
	return f.file.flush(off, n)
}

func (f *faultyFile) replace(name string) error {
	if err := f.d.fault("replace"); err != nil {
		return err
	}
	return f.file.replace(name)
}

func (f *faultyFile) Sync() error {
	f.d.fsyncs.Add(1)
	if err := f.d.fault("fsync"); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) link(name string) error {
	if err := f.d.fault("link"); err != nil {
		return err
	}
	return f.file.link(name)
}

func openFaulty(t *testing.T, dir string, named bool, err error) (*Spool, *faulty) {
	t.Helper()
	d, openErr := openDirectory(dir)
	if openErr != nil {
		t.Fatal(openErr)
	}
	d.named = named
	f := &faulty{directory: d, err: err}
	f.breaks("")
	return start(Options{Dir: dir}, f), f
}

func TestPut_on_a_failing_disk_leaves_nothing_and_recovers(t *testing.T) {
	for _, named := range []bool{false, true} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EMFILE, syscall.EPERM} {
			for _, call := range []string{"free", "create", "write", "flush", "checksum", "fsync", "link", "sync"} {
				synctest.Test(t, func(t *testing.T) { failAndRecover(t, named, errno, call) })
			}
		}
	}
}

func failAndRecover(t *testing.T, named bool, errno syscall.Errno, call string) {
	dir := spoolDir(t)
	s, d := openFaulty(t, dir, named, errno)
	indexedNow(s)
	d.breaks(call)
	octets := "x"
	if call == "flush" || call == "checksum" {
		octets = strings.Repeat("x", piece) // written in pieces
	}
	m := someDelivery(mail.JSON, []byte(octets))
	err := s.Put(m)
	if !errors.Is(err, errno) || errors.Is(err, ErrFull) != (errno != syscall.EPERM) {
		t.Errorf("%v at %s: error %v, ErrFull %v", errno, call, err, errors.Is(err, ErrFull))
	}
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("%v at %s: files %v", errno, call, names)
	}
	if st := s.Status(); st.Files != 0 || st.LastError == "" || st.LastErrorAt.IsZero() {
		t.Errorf("%v at %s: status %+v", errno, call, st)
	}
	d.breaks("")
	time.Sleep(2 * probePause)
	synctest.Wait()
	mustPut(t, s, m)
	mustClose(t, s)
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("%v at %s, then recovered: files %v", errno, call, names)
	}
}

func TestPut_that_fails_while_it_is_settled_leaves_nothing(t *testing.T) {
	dir := spoolDir(t)
	s, d := openFaulty(t, dir, false, syscall.ENOSPC)
	m := someDelivery(mail.JSON, []byte("x"))
	d.breaks("fsync")
	if err := s.Put(m); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
	s.Settle(m.ID, true)
	s.Settle(m.ID, false)
	mustClose(t, s)
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("files %v", names)
	}
}

func TestSettle_confirmed_while_the_file_is_written_removes_it_afterwards(t *testing.T) {
	dir := spoolDir(t)
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	gate := &gatedSync{directory: d, entered: make(chan struct{}), leave: make(chan struct{})}
	s := start(Options{Dir: dir}, gate)
	m := someDelivery(mail.JSON, []byte("x"))
	put := make(chan error)
	go func() { put <- s.Put(m) }()
	<-gate.entered
	s.Settle(m.ID, true)
	close(gate.leave)
	if err := <-put; err != nil {
		t.Error(err)
	}
	mustClose(t, s)
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("files %v", names)
	}
}

type gatedSync struct {
	directory
	entered, leave chan struct{}
}

func (d *gatedSync) sync() error {
	close(d.entered)
	<-d.leave
	return d.directory.sync()
}

func TestReplay_of_a_file_that_cannot_be_read_now_comes_back_to_it(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := openFaulty(t, spoolDir(t), false, syscall.EMFILE)
		defer mustClose(t, s)
		putReady(t, s, mail.JSON, "x")
		d.breaks("open")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- s.Replay(ctx, func(context.Context, *mail.Delivery) (Verdict, error) {
				cancel()
				return Done, nil
			})
		}()
		synctest.Wait()
		if st := s.Status(); st.Retrying != 1 || st.Unreadable != 0 || !strings.Contains(st.LastError, "too many open files") {
			t.Errorf("status %+v", st)
		}
		d.breaks("")
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestRemove_that_fails_is_shown_and_not_replayed(t *testing.T) {
	dir := spoolDir(t)
	var log logtest.Buffer
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{directory: d, err: syscall.EIO}
	f.breaks("remove")
	s := start(Options{Dir: dir, Log: log.Logger()}, f)
	for range 2 * removeAtOnce {
		putReady(t, s, mail.JSON, "x")
	}
	replayed(t, s, 2*removeAtOnce)
	mustClose(t, s)
	if st := s.Status(); st.Files != 0 || st.LastError == "" {
		t.Errorf("status %+v", st)
	}
	if n := strings.Count(log.String(), "cannot be removed"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	if n := len(files(t, dir)); n != 2*removeAtOnce {
		t.Errorf("%d files are left", n)
	}
}

func TestA_flush_that_a_signal_interrupts_is_made_again(t *testing.T) {
	for _, c := range []struct {
		answers []error
		want    error
	}{
		{[]error{unix.EINTR, unix.EINTR, nil}, nil},
		{[]error{unix.EINTR, unix.EIO}, unix.EIO},
		{[]error{unix.EINVAL}, nil}, // the system cannot
	} {
		calls := 0
		err := flushed(func() (int, error) { calls++; return 0, c.answers[calls-1] })
		if !errors.Is(err, c.want) || calls != len(c.answers) {
			t.Errorf("%v: %v after %d calls", c.answers, err, calls)
		}
	}
}
