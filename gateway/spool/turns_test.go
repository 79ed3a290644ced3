package spool

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"

	"pgregory.net/rapid"
)

// slowDisk counts the writers of each listener: an fsync takes a second of the test's clock.
type slowDisk struct {
	directory
	mu   sync.Mutex
	now  int
	most int
}

type slowFile struct {
	file
	d *slowDisk
}

func (d *slowDisk) create() (file, error) {
	f, err := d.directory.create()
	return &slowFile{f, d}, err
}

func (d *slowDisk) add(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now += n
	d.most = max(d.most, d.now)
}

func (f *slowFile) Sync() error {
	f.d.add(1)
	defer f.d.add(-1)
	time.Sleep(time.Second)
	return f.file.Sync()
}

func TestPut_of_a_listener_writes_four_files_at_once_beside_a_broker_that_takes_mail(t *testing.T) {
	for _, c := range []struct {
		available bool
		listeners int
		most      int
	}{{true, 1, writersBeside}, {true, 3, 3 * writersBeside}, {false, 1, 20}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, err := openDirectory(spoolDir(t))
				if err != nil {
					t.Fatal(err)
				}
				disk, broker := &slowDisk{directory: d}, &someBroker{}
				broker.available.Store(c.available)
				s := start(Options{Dir: "x", Broker: broker}, disk)
				defer mustClose(t, s)
				var all sync.WaitGroup
				for i := range 20 {
					all.Go(func() { mustPut(t, s, from(fmt.Sprint(i%c.listeners))) })
				}
				all.Wait()
				if disk.most != c.most {
					t.Errorf("%d files were written at once, want %d", disk.most, c.most)
				}
				if st := s.Status(); st.Files != 20 {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

func TestPut_that_waits_for_its_listeners_turn_goes_on_when_the_broker_goes_away_or_the_spool_closes(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d, err := openDirectory(spoolDir(t))
			if err != nil {
				t.Fatal(err)
			}
			disk, broker := &slowDisk{directory: d}, &someBroker{}
			broker.available.Store(true)
			s := start(Options{Dir: "x", Broker: broker}, disk)
			errs := make(chan error, 40)
			for range 40 {
				go func() { errs <- s.Put(from("a")) }()
			}
			synctest.Wait()
			if closes {
				mustClose(t, s)
			}
			broker.available.Store(false)
			var refused int
			for range 40 {
				if err := <-errs; errors.Is(err, ErrClosed) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			}
			if !closes {
				mustClose(t, s)
			}
			if want := map[bool]int{false: 0, true: 40 - writersBeside}[closes]; refused != want {
				t.Errorf("closes %v: %d puts were refused, want %d", closes, refused, want)
			}
			if files := s.index.origins["a"].files; files != 40-refused {
				t.Errorf("the listener has %d files", files)
			}
		})
	}
}

// largeFrom returns a delivery of a listener whose file is a little larger than so many MiB.
func largeFrom(listener string, mib int) *mail.Delivery {
	d := someDelivery(mail.JSON, []byte(strings.Repeat("x", mib<<20)))
	d.Envelope.Listener = listener
	return d
}

func TestPut_of_small_mail_waits_for_no_large_mail_that_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := openDirectory(spoolDir(t))
		if err != nil {
			t.Fatal(err)
		}
		s := start(Options{Dir: "x"}, &slowDisk{directory: d})
		defer mustClose(t, s)
		began := time.Now()
		var mu sync.Mutex
		ends := map[string][]time.Duration{}
		var all sync.WaitGroup
		put := func(name string, m *mail.Delivery) {
			all.Go(func() {
				mustPut(t, s, m)
				mu.Lock()
				defer mu.Unlock()
				ends[name] = append(ends[name], time.Since(began))
			})
			synctest.Wait()
		}
		for _, mib := range []int{9, 3, 3, 3} { // the first goes alone, two of the others fit
			put("a", largeFrom("a", mib))
		}
		for range 2 { // one fits beside a's first: at most 32 MiB are under way
			put("b", largeFrom("b", 20))
		}
		for _, listener := range []string{"a", "b", "c"} {
			put("small", from(listener))
		}
		all.Wait()
		for name, want := range map[string]string{"a": "[1s 2s 2s 3s]", "b": "[1s 2s]", "small": "[1s 1s 1s]"} {
			if got := fmt.Sprint(ends[name]); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})
}

func TestTurn_of_a_listener_that_had_little_comes_before_those_of_one_that_had_much(t *testing.T) {
	x := newIndex()
	var turns turns
	greedy, modest := x.origin("greedy"), x.origin("modest")
	var under []*turn
	for range maxWriters {
		under = append(under, turns.ask(greedy, 1000, false))
	}
	var greedyWait, modestWait []*turn
	for range 100 {
		greedyWait = append(greedyWait, turns.ask(greedy, 1000, false))
	}
	for range 4 {
		modestWait = append(modestWait, turns.ask(modest, 1000, false))
	}
	for _, w := range under[:8] {
		turns.end(w, false)
	}
	if n, of := came(greedyWait), came(modestWait); of != 4 || n != 4 {
		t.Errorf("of eight turns the greedy listener had %d, the modest one %d", n, of)
	}
}

// came counts the turns that have come.
func came(all []*turn) (n int) {
	for _, w := range all {
		select {
		case <-w.come:
			n++
		default:
		}
	}
	return n
}

func TestTurns_all_come_and_never_are_too_many_under_way(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		var turns turns
		var waiting, writing []*turn
		beside := false
		check := func() {
			left := waiting[:0]
			for _, w := range waiting {
				if came([]*turn{w}) == 1 {
					writing = append(writing, w)
				} else {
					left = append(left, w)
				}
			}
			waiting = left
			wantWithin(t, writing, &turns)
			if len(waiting) > 0 && len(writing) == 0 {
				t.Fatalf("%d wait, and nothing is written", len(waiting))
			}
		}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch beside = rapid.Bool().Draw(t, "beside"); {
			case len(writing) > 0 && rapid.Bool().Draw(t, "ends"):
				i := rapid.IntRange(0, len(writing)-1).Draw(t, "which")
				w := writing[i]
				writing = append(writing[:i], writing[i+1:]...)
				turns.end(w, beside)
			case len(waiting) > 0 && rapid.IntRange(0, 9).Draw(t, "leaves") == 0:
				turns.leave(waiting[0])
				waiting = waiting[1:]
			default:
				size := rapid.SampledFrom([]int64{1, piece, piece + 1, 3 << 20, 9 << 20, 40 << 20}).Draw(t, "size")
				o := x.origin(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "listener"))
				waiting = append(waiting, turns.ask(o, size, beside))
			}
			check()
		}
		for len(writing) > 0 {
			w := writing[0]
			writing = writing[1:]
			turns.end(w, beside)
			check()
		}
		if turns.writing != 0 || turns.large != 0 || len(turns.waiting) != 0 {
			t.Fatalf("left: %+v", turns)
		}
	})
}

// wantWithin fails t where more is written at once than may be.
func wantWithin(t *rapid.T, writing []*turn, turns *turns) {
	large, files := int64(0), 0
	of, filesOf := map[*origin]int64{}, map[*origin]int{}
	for _, w := range writing {
		if w.in.large {
			large, files = large+w.size, files+1
			of[w.in.from], filesOf[w.in.from] = of[w.in.from]+w.size, filesOf[w.in.from]+1
		}
	}
	if len(writing) > maxWriters || len(writing) != turns.writing || large != turns.large || large > maxLarge && files > 1 {
		t.Fatalf("%d files are written, of them large ones of %d octets: %+v", len(writing), large, turns)
	}
	for o, octets := range of {
		if octets > maxOfListener && filesOf[o] > 1 {
			t.Fatalf("%d octets of %q", octets, o.name)
		}
	}
}
