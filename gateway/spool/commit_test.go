package spool

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"
)

func TestGroup_waits_for_a_sync_that_began_after_the_call(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int32
		g := group{sync: func() error {
			begun.Add(1)
			time.Sleep(time.Second)
			return nil
		}}
		began := time.Now()
		ends := make(chan time.Duration, 11)
		wait := func() {
			_ = g.wait()
			ends <- time.Since(began)
		}
		go wait()
		time.Sleep(time.Second / 2)
		for range 10 { // in the middle of the first sync
			go wait()
		}
		for i, want := range []time.Duration{1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2} {
			if got := <-ends; got != want*time.Second {
				t.Errorf("wait %d ended after %v, want %d s", i, got, want)
			}
		}
		if begun.Load() != 2 {
			t.Errorf("%d syncs for 11 files, want 2", begun.Load())
		}
	})
}

func TestGroup_tells_the_error_to_everybody_who_shared_the_sync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var n atomic.Int32
		g := group{sync: func() error {
			time.Sleep(time.Second)
			if n.Add(1) == 2 {
				return broken
			}
			return nil
		}}
		errs := make(chan error, 3)
		go func() { _ = g.wait() }()
		time.Sleep(time.Millisecond)
		for range 3 {
			go func() { errs <- g.wait() }()
		}
		for range 3 {
			if err := <-errs; !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
		}
		if err := g.wait(); err != nil {
			t.Errorf("the next sync: %v", err)
		}
	})
}

func TestPut_by_many_shares_directory_syncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := spoolDir(t)
		d, err := openDirectory(dir)
		if err != nil {
			t.Fatal(err)
		}
		slow := &slowSync{directory: d}
		s := start(Options{Dir: dir}, slow)
		defer mustClose(t, s)
		errs := make(chan error)
		for range 64 {
			go func() { errs <- s.Put(someDelivery(mail.JSON, []byte("x"))) }()
		}
		for range 64 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		// The first sync may begin before the others have linked; whoever is left shares the next ones.
		if n := slow.n.Load(); n < 1 || n > 3 {
			t.Errorf("%d directory syncs for 64 files put at once", n)
		}
	})
}

// slowSync makes a directory sync take a second of the test's clock.
type slowSync struct {
	directory
	n atomic.Int32
}

func (d *slowSync) sync() error {
	d.n.Add(1)
	time.Sleep(time.Second)
	return d.directory.sync()
}
