package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// newStore is a store in directory "a" of dir, whose broker is away.
func newStore(t *testing.T, dir string) *store {
	t.Helper()
	s := &store{
		log:   slog.New(slog.DiscardHandler),
		ready: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	use(t, s, filepath.Join(dir, "a"))
	t.Cleanup(func() {
		s.stopReplay()
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// use has mail spooled in path from now on.
func use(t *testing.T, s *store, path string) {
	t.Helper()
	prepareStore(t, s, path).Commit()
}

func prepareStore(t *testing.T, s *store, path string) *storeChange {
	t.Helper()
	c, err := s.prepare(path, spool.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// open names the spools that are open, the one in use first.
func (s *store) open() string {
	var names []string
	for _, st := range s.status() {
		names = append(names, filepath.Base(st.Dir))
	}
	return strings.Join(names, " ")
}

func delivery() *mail.Delivery {
	id := uuid.New()
	return &mail.Delivery{
		ID: id, Envelope: &mail.Envelope{ID: id, Listener: "in", ReceivedAt: time.Now()},
		Recipients: []address.Address{{Local: "bob", Domain: "example.com"}},
		Exchange:   "x", Format: mail.JSON, Content: memory.NewContent([]byte("x\r\n"), 0, nil),
	}
}

func TestAnother_spool_takes_the_mail_and_the_one_before_closes_when_it_is_empty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		d := delivery()
		settle, err := s.put(d)
		if err != nil {
			t.Fatal(err)
		}
		use(t, s, dir+"/b")
		time.Sleep(time.Minute)
		if got := s.open(); got != "b a" {
			t.Fatalf("open: %s", got)
		}
		settle(d.ID, true)
		time.Sleep(2 * emptyPoll)
		if got := s.open(); got != "b" {
			t.Fatalf("open: %s", got)
		}
		use(t, s, dir+"/c")
		use(t, s, dir+"/b") // back before it was closed
		time.Sleep(2 * emptyPoll)
		if got := s.open(); got != "b" {
			t.Fatalf("open: %s", got)
		}
	})
}

func TestA_spool_that_a_reload_is_about_to_return_to_is_not_closed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		use(t, s, dir+"/b")
		change := prepareStore(t, s, dir+"/a")
		time.Sleep(time.Minute) // the broker takes its time to connect
		change.Commit()
		if got := s.open(); got != "a b" {
			t.Errorf("open: %s", got)
		}
		if _, err := s.put(delivery()); err != nil {
			t.Error(err)
		}
		change = prepareStore(t, s, dir+"/b")
		change.Abort()
		time.Sleep(2 * emptyPoll)
		if got := s.open(); got != "a" {
			t.Errorf("open: %s", got)
		}
	})
}

func TestA_spool_that_was_prepared_in_vain_is_given_up(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	prepareStore(t, s, dir+"/b").Abort()
	again, err := spool.Open(spool.Options{Dir: dir + "/b"})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	t.Chdir(dir)
	prepareStore(t, s, "a").Abort() // the one in use, by another name
	if _, err := s.put(delivery()); err != nil {
		t.Error(err)
	}
}

func TestNo_mail_is_left_behind_in_a_spool_that_closes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		var writers sync.WaitGroup
		var mu sync.Mutex
		left := 0
		for w := range 10 {
			writers.Go(func() {
				random := rand.New(rand.NewPCG(uint64(w), 1))
				for range 100 {
					time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
					d := delivery()
					settle, err := s.put(d)
					if err != nil {
						t.Error(err)
						return
					}
					keep := random.IntN(200) == 0
					if keep {
						mu.Lock()
						left++
						mu.Unlock()
					}
					settle(d.ID, !keep)
				}
			})
		}
		for i := range 50 {
			use(t, s, filepath.Join(dir, string(rune('a'+i%5))))
			time.Sleep(100 * time.Millisecond)
		}
		writers.Wait()
		time.Sleep(2 * emptyPoll)
		files := 0
		for _, st := range s.status() {
			files += st.Files
		}
		paths, err := filepath.Glob(dir + "/*/*.json")
		if err != nil || files != left || len(paths) != left {
			t.Errorf("%d files in open spools, %d on disk, %d expected: %v", files, len(paths), left, err)
		}
	})
}

func TestA_put_under_way_keeps_its_spool_open(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		first := s.spools[0]
		first.puts++ // as put has it while the disk is slow
		use(t, s, dir+"/b")
		time.Sleep(time.Minute)
		if got := s.open(); got != "b a" {
			t.Errorf("open: %s", got)
		}
		s.mu.Lock()
		first.puts--
		s.mu.Unlock()
		time.Sleep(2 * emptyPoll)
		if got := s.open(); got != "b" {
			t.Errorf("open: %s", got)
		}
		if _, err := os.Stat(dir + "/a"); err != nil {
			t.Error(err)
		}
	})
}

func TestMail_in_the_spool_before_counts_against_the_limits_of_the_one_in_use(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	if _, err := s.put(delivery()); err != nil {
		t.Fatal(err)
	}
	octets := s.status()[0].Octets // a few more or less the next time: the time is written in it
	for _, c := range []struct {
		why    string
		limits spool.Limits
		full   bool
	}{
		{"spool.max_bytes", spool.Limits{MaxBytes: octets * 3 / 2}, true},
		{"spool_max_bytes of listener", spool.Limits{Listeners: map[string]int64{"in": octets * 3 / 2}}, true},
		{"", spool.Limits{MaxBytes: 3 * octets, Listeners: map[string]int64{"in": 3 * octets, "other": 1}}, false},
	} {
		change, err := s.prepare(filepath.Join(dir, "b"), c.limits)
		if err != nil {
			t.Fatal(err)
		}
		change.Commit()
		indexed(t, s)
		_, err = s.put(delivery())
		if errors.Is(err, spool.ErrFull) != c.full || c.full && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

// indexed waits until every spool knows what lies in it.
func indexed(t *testing.T, s *store) {
	t.Helper()
	for _, d := range s.spools {
		for _, err := range d.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestA_spool_with_unreadable_files_is_kept_until_its_operator_has_taken_them(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		name := uuid.NewString() + ".json"
		if err := os.WriteFile(filepath.Join(dir, "a", name), []byte("cut off"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.spools[0].Look(t.Context())
		use(t, s, dir+"/b")
		time.Sleep(2 * badPoll)
		if got := s.open(); got != "b a" || s.status()[1].Unreadable != 1 {
			t.Fatalf("open: %s, %+v", got, s.status())
		}
		n := 0
		for e, err := range (&Spooled{g: &Gateway{store: s}}).Bad(t.Context()) {
			if n++; err != nil || e.Name != name || e.Dir != dir+"/a" {
				t.Errorf("in bad/: %+v, %v", e, err)
			}
		}
		if n != 1 {
			t.Errorf("%d files in bad/", n)
		}
		s.stopReplay()
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.closing = false
		use(t, s, dir+"/b") // as a restart does
		time.Sleep(2 * badPoll)
		if got := s.open(); got != "b a" {
			t.Fatalf("open after a restart: %s", got)
		}
		if err := os.RemoveAll(filepath.Join(dir, "a", "bad")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * badPoll)
		if got := s.open(); got != "b" {
			t.Errorf("open when they are taken away: %s", got)
		}
	})
}

func TestPredecessors_that_are_not_reached_are_a_warning_in_the_log(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := &store{log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, name := range []string{"b", "b/predecessors", "c"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "c", "predecessors"), []byte(dir+"/gone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"b": "it is not known where mail was spooled before", "c": "cannot be opened: what mail is left there waits unseen"} {
		c := prepareStore(t, s, filepath.Join(dir, name))
		if got := log.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", name, got)
		}
		log.Reset()
		c.Abort()
	}
}
