package spool

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"
)

// from returns a delivery of a listener.
func from(listener string) *mail.Delivery {
	d := someDelivery(mail.JSON, []byte(strings.Repeat("x", 1000)))
	d.Envelope.Listener = listener
	return d
}

// fileSize returns the octets that the file of from(listener) has.
func fileSize(t *testing.T, listener string) int64 {
	t.Helper()
	d := from(listener)
	_, text, err := newHead(d, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(text)) + d.JSONSize() + 1 // the time of spooling may be a digit longer
}

// wantFull fails t unless a put is refused for lack of room, before anything is written, with a text that holds why.
func wantFull(t *testing.T, s *Spool, d *mail.Delivery, why string) {
	t.Helper()
	f := s.dir.(*faulty)
	before := f.created.Load()
	if err := s.Put(d); !errors.Is(err, ErrFull) || !strings.Contains(errText(err), why) {
		t.Errorf("error %v, want ErrFull with %q", err, why)
	}
	if f.created.Load() != before {
		t.Error("something was written before it was refused")
	}
}

func TestPut_over_max_bytes_is_refused_until_there_is_room(t *testing.T) {
	dir := spoolDir(t)
	s, _ := openFaulty(t, dir, false, nil)
	defer mustClose(t, s)
	indexedNow(s)
	s.SetLimits(Limits{MaxBytes: 2 * fileSize(t, "a")})
	first := from("a")
	mustPut(t, s, first)
	mustPut(t, s, from("b"))
	wantFull(t, s, from("c"), "max_bytes")
	wantFull(t, s, from("d"), "max_bytes")
	got := s.Status()
	if got.Files != 2 || got.LastError != "" || got.Refused != 2 || !strings.Contains(got.LastRefusal, "max_bytes") || got.LastRefusalAt.IsZero() {
		t.Errorf("status %+v", got)
	}
	s.Settle(first.ID, true)
	mustPut(t, s, from("c"))
	s.SetLimits(Limits{})
	mustPut(t, s, from("a"))
}

func TestPut_of_a_listener_over_its_share_is_refused_and_nobody_elses(t *testing.T) {
	dir := spoolDir(t)
	s, _ := openFaulty(t, dir, false, nil)
	indexedNow(s)
	limits := Limits{Listeners: map[string]int64{"a": fileSize(t, "a"), "unlimited": 0}}
	s.SetLimits(limits)
	mustPut(t, s, from("a"))
	wantFull(t, s, from("a"), `listener "a"`)
	for _, other := range []string{"b", "b", "unlimited", "unlimited"} {
		mustPut(t, s, from(other))
	}
	mustClose(t, s)

	s, _ = openFaulty(t, dir, false, nil) // counts what lies there
	defer mustClose(t, s)
	indexedNow(s)
	s.SetLimits(limits)
	wantFull(t, s, from("a"), `listener "a"`)
	mustPut(t, s, from("b"))
}

func TestPut_leaves_min_free_on_the_file_system(t *testing.T) {
	s, d := openFaulty(t, spoolDir(t), false, nil)
	defer mustClose(t, s)
	s.SetLimits(Limits{MinFree: 1 << 20})
	d.room.Store(1<<20 + 100)
	wantFull(t, s, from("a"), "min_free")
	d.room.Store(2 << 20)
	mustPut(t, s, from("a"))
}

func TestPut_before_everything_is_counted_is_bounded_by_min_free_alone(t *testing.T) {
	d, err := openDirectory(spoolDir(t))
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowList{faulty: &faulty{directory: d}, go_on: make(chan struct{})}
	slow.breaks("")
	s := start(Options{Dir: "x", Limits: Limits{MaxBytes: 1, Listeners: map[string]int64{"a": 1}, MinFree: 1}}, slow)
	defer mustClose(t, s)
	mustPut(t, s, from("a"))
	slow.room.Store(1)
	if err := s.Put(from("a")); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
	slow.room.Store(0)
	close(slow.go_on)
	indexedNow(s)
	if err := s.Put(from("a")); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
}

// slowList is a directory that takes its time to say what is in it.
type slowList struct {
	*faulty
	go_on chan struct{}
}

func (d *slowList) list(each func(string, bool) bool) error {
	<-d.go_on
	return d.faulty.list(each)
}

// someBroker is what a test says of the broker.
type someBroker struct {
	available, live, busy atomic.Bool
	unusable              atomic.Pointer[string]
}

func (b *someBroker) Available() bool { return b.available.Load() }
func (b *someBroker) Live() bool      { return b.live.Load() }
func (b *someBroker) Busy() bool      { return b.busy.Load() }
func (b *someBroker) Unusable(exchange string) bool {
	name := b.unusable.Load()
	return name != nil && *name == exchange
}

func TestPut_after_a_failed_fsync_is_refused_until_a_test_of_the_disk_passes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []string{"write", "fsync", "sync"} {
			s, d := openFaulty(t, spoolDir(t), false, syscall.EIO)
			indexedNow(s)
			d.breaks(call)
			m := from("a")
			if err := s.Put(m); !errors.Is(err, ErrFull) || !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: error %v", call, err)
			}
			if n := d.fsyncs.Load(); call == "fsync" && n != 1 {
				t.Errorf("%d fsyncs of one file", n)
			}
			wantFull(t, s, m, "the disk failed")
			time.Sleep(10 * probePause) // in vain
			synctest.Wait()
			wantFull(t, s, m, "the disk failed")
			if st := s.Status(); st.Failing == "" || st.LastError == "" || st.Mended || st.Files != 0 || st.Refused != 3 {
				t.Errorf("%s: status %+v", call, st)
			}
			d.breaks("")
			time.Sleep(2 * probePause)
			synctest.Wait()
			if st := s.Status(); st.Failing != "" || st.LastError == "" || !st.Mended {
				t.Errorf("%s: status %+v", call, st)
			}
			mustPut(t, s, m)
			d.breaks(call)
			_ = s.Put(from("a")) // and closed while it fails
			mustClose(t, s)
			if names := files(t, s.path); len(names) != 1 {
				t.Errorf("%s: files %v", call, names)
			}
		}
	})
}
