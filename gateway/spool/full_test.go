package spool

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"lsmtpd/gateway/mail"

	"golang.org/x/sys/unix"
)

// mountSmall puts a file system of a mebibyte on dir for as long as the test runs, where we may.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Skipf("no tmpfs can be mounted here (%v): only the file system with injected faults is full", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// capped is a directory that has room for so many octets.
type capped struct {
	directory
	left atomic.Int64
}

type cappedFile struct {
	file
	d *capped
	n int64
}

func (d *capped) create() (file, error) {
	f, err := d.directory.create()
	return &cappedFile{file: f, d: d}, err
}

func (f *cappedFile) Write(b []byte) (int, error) {
	f.n = int64(len(b))
	if f.d.left.Add(-f.n) < 0 {
		return 0, syscall.ENOSPC
	}
	return f.file.Write(b)
}

func (f *cappedFile) link(name string) error {
	f.n = 0 // it stays
	return f.file.link(name)
}

func (f *cappedFile) Close() error {
	f.d.left.Add(f.n)
	return f.file.Close()
}

func (d *capped) remove(name string) error {
	f, err := d.directory.open(name)
	if err == nil {
		d.left.Add(f.size())
		f.Close()
	}
	return d.directory.remove(name)
}

func TestPut_onto_a_disk_that_is_full_is_refused_keeps_what_was_promised_and_goes_on_when_there_is_room(t *testing.T) {
	for name, isReal := range map[string]bool{"tmpfs": true, "injected faults": false} {
		t.Run(name, func(t *testing.T) {
			dir := spoolDir(t)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if isReal {
				mountSmall(t, dir)
			}
			d, err := openDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			var on directory = d
			if !isReal {
				limited := &capped{directory: d}
				limited.left.Store(1 << 20)
				on = limited
			}
			fillUp(t, dir, start(Options{Dir: dir}, on))
		})
	}
}

// fillUp puts more onto a disk of a mebibyte than it takes, then makes room.
func fillUp(t *testing.T, dir string, s *Spool) {
	indexedNow(s)
	octets := bytes.Repeat([]byte("some text\r\n"), 1000)
	var taken, refused atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 20 { // more than three times the room
				m := someDelivery(mail.Raw, octets)
				switch err := s.Put(m); {
				case err == nil:
					taken.Add(1)
					s.Settle(m.ID, false)
				case errors.Is(err, ErrFull):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d files were taken, %d refused", taken.Load(), refused.Load())
	if refused.Load() == 0 || taken.Load() < 50 {
		t.Errorf("%d files were taken, %d refused", taken.Load(), refused.Load())
	}
	if names := files(t, dir); len(names) != int(taken.Load()) {
		t.Errorf("%d files lie there, %d were promised", len(names), taken.Load())
	}
	if st := s.Status(); st.Failing != "" || st.LastError == "" {
		t.Errorf("status %+v: a full disk is no failing one", st)
	}
	replayed(t, s, int(taken.Load()))
	mustClose(t, s) // the files are removed

	s = opened(t, dir)
	for range 20 {
		mustPut(t, s, someDelivery(mail.Raw, octets))
	}
}
