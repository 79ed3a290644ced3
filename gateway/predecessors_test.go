package gateway

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/spool"
)

// life is a store from its start, in directories below dir, to its stop; the broker takes everything once it is there.
type life struct {
	*store
	t        testing.TB
	dir      string
	log      bytes.Buffer
	there    chan struct{} // closed: the broker is there
	warnings []string      // of the start
}

func startStore(t testing.TB, dir, name string) *life {
	t.Helper()
	p := &life{t: t, dir: dir, there: make(chan struct{})}
	p.store = &store{log: slog.New(slog.NewTextHandler(&p.log, nil))}
	p.ready = func(ctx context.Context) error {
		select {
		case <-p.there:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.resend = func(context.Context, *spool.Spool, *mail.Delivery) (spool.Verdict, error) { return spool.Done, nil }
	p.ctx, p.store.stop = context.WithCancel(context.Background())
	p.warnings = p.use(name)
	return p
}

func (p *life) use(name string) (warnings []string) {
	p.t.Helper()
	c, err := p.prepare(filepath.Join(p.dir, name), spool.Limits{})
	if err != nil {
		p.t.Fatal(err)
	}
	c.Commit()
	return c.warnings
}

// spoolOne leaves a mail in the spool in use.
func (p *life) spoolOne() {
	p.t.Helper()
	d := delivery()
	settle, err := p.put(d)
	if err != nil {
		p.t.Fatal(err)
	}
	settle(d.ID, false)
}

func (p *life) end() {
	p.t.Helper()
	p.stopReplay()
	if err := p.close(); err != nil {
		p.t.Error(err)
	}
}

// remembered is what the file of predecessors in a spool says, by names.
func remembered(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name, spool.PredecessorsFile))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(string(b), dir+"/", "")), " ")
}

func TestA_start_opens_every_spool_in_which_a_reload_left_mail(t *testing.T) {
	for _, c := range []struct{ way, open string }{
		{"a b", "b a"},
		{"a b c", "c b a"},
		{"a b a", "a b"},
		{"a b c b", "b c a"},
		{"a b c d a", "a d c b"},
	} {
		t.Run(c.way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				way := strings.Fields(c.way)
				p := startStore(t, dir, way[0])
				p.spoolOne()
				for _, name := range way[1:] {
					p.use(name)
					p.spoolOne()
				}
				p.end() // no tick of closeEmpty: what prepare wrote is all there is
				last := way[len(way)-1]
				p = startStore(t, dir, last)
				if got := p.open(); got != c.open || len(p.warnings) > 0 {
					t.Errorf("open: %s, warnings %q", got, p.warnings)
				}
				time.Sleep(10 * emptyPoll)
				if got := p.open(); got != c.open {
					t.Errorf("after a while open: %s", got)
				}
				close(p.there)
				time.Sleep(time.Minute)
				if got := p.open(); got != last {
					t.Errorf("when all is delivered, open: %s", got)
				}
				p.end()
				left, err := filepath.Glob(dir + "/*/*")
				if err != nil || len(left) > 0 {
					t.Errorf("left: %v, %v", left, err)
				}
				p = startStore(t, dir, last)
				defer p.end()
				if got := p.open(); got != last {
					t.Errorf("at the next start open: %s", got)
				}
			})
		})
	}
}

func TestA_stop_tells_what_waits_in_spools_that_are_not_in_use(t *testing.T) {
	dir := t.TempDir()
	p := startStore(t, dir, "a")
	p.spoolOne()
	p.spoolOne()
	p.use("b")
	p.spoolOne()
	p.end()
	if log := p.log.String(); strings.Count(log, "mail waits in a spool that is not in use") != 1 || !strings.Contains(log, "dir="+dir+"/a files=2 ") {
		t.Errorf("log:\n%s", log)
	}
}

func TestA_predecessor_that_cannot_be_opened_is_warned_of_and_replayed_as_soon_as_it_can(t *testing.T) {
	for name, c := range map[string]struct {
		hinder func(path string) (mend func() error, err error)
		says   string
	}{
		"gone": {func(path string) (func() error, error) {
			return func() error { return os.Rename(path+".away", path) }, os.Rename(path, path+".away")
		}, "there is no such directory"},
		"open to others": {func(path string) (func() error, error) {
			return func() error { return os.Chmod(path, 0o700) }, os.Chmod(path, 0o755)
		}, "close it: chmod 700 "},
		"another's": {func(path string) (func() error, error) {
			s, err := spool.Open(spool.Options{Dir: path})
			if err != nil {
				return nil, err
			}
			return s.Close, nil
		}, "another process has it open"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				p := startStore(t, dir, "a")
				p.spoolOne()
				p.use("b")
				p.end()
				mend, err := c.hinder(dir + "/a")
				if err != nil {
					t.Fatal(err)
				}
				p = startStore(t, dir, "b")
				defer p.end()
				for _, warnings := range [][]string{p.warnings, p.use("b"), p.use("c")} {
					if len(warnings) != 1 || !strings.Contains(warnings[0], dir+"/a") || !strings.Contains(warnings[0], c.says) ||
						!strings.Contains(warnings[0], "/predecessors") {
						t.Errorf("warnings %q", warnings)
					}
				}
				close(p.there)
				time.Sleep(time.Minute)
				st := p.status()
				if len(st) != 2 || st[1].Dir != dir+"/a" || !strings.Contains(st[1].NotOpen, c.says) {
					t.Errorf("status %+v", st)
				}
				if got := remembered(t, dir, "c"); got != "a" {
					t.Errorf("c remembers %q", got)
				}
				if err := mend(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if got := p.open(); got != "c" || remembered(t, dir, "c") != "" {
					t.Errorf("open: %s, c remembers %q", got, remembered(t, dir, "c"))
				}
				if left, err := filepath.Glob(dir + "/a/*"); err != nil || len(left) > 0 {
					t.Errorf("left: %v, %v", left, err)
				}
			})
		})
	}
}

func TestWhat_a_spool_noted_and_cannot_be_read_now_is_kept_until_it_can(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := startStore(t, dir, "a")
		p.spoolOne()
		p.use("b")
		p.spoolOne()
		p.use("c") // c remembers a and b: an operator takes the first line away, so that only b knows a
		p.end()
		note := filepath.Join(dir, "b", spool.PredecessorsFile)
		for _, step := range []error{
			os.WriteFile(filepath.Join(dir, "c", spool.PredecessorsFile), []byte(dir+"/b\n"), 0o600),
			os.WriteFile(note+".away", []byte(dir+"/a\n"), 0o600),
			os.WriteFile(note, bytes.Repeat([]byte("/x\n"), 1<<19), 0o600), // too long to be read
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
		p = startStore(t, dir, "c")
		defer p.end()
		close(p.there)
		time.Sleep(time.Minute)
		if got := p.open(); got != "c b" || len(p.warnings) != 1 || len(Unreached(p.status())) != 1 {
			t.Errorf("open: %s, warnings %q, unreached %q", got, p.warnings, Unreached(p.status()))
		}
		if _, err := p.prepare(dir+"/b", spool.Limits{}); err == nil || !strings.Contains(err.Error(), note+": ") {
			t.Errorf("a change back to b: %v", err)
		}
		if err := os.Rename(note+".away", note); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := p.open(); got != "c" || len(Unreached(p.status())) != 0 {
			t.Errorf("open: %s, unreached %q", got, Unreached(p.status()))
		}
		if left, err := filepath.Glob(dir + "/*/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

func TestWhat_an_operator_wrote_for_predecessors_stops_no_start(t *testing.T) {
	for text, says := range map[string]string{
		"a b\n":                            "a b: is no absolute path",
		strings.Repeat("/x\n", 1<<19):      "octets",
		"/nowhere/at/all\n/nowhere/at/all": "/nowhere/at/all before",
		"/" + strings.Repeat("x", 1<<19):   "x…: has 524289 octets, which is too long for a path",
	} {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/a", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/a/"+spool.PredecessorsFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p := startStore(t, dir, "a")
		if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], says) || len(p.warnings[0]) > 2000 {
			t.Errorf("%.20q: warnings %.3000q", text, p.warnings)
		}
		if unreached := Unreached(p.status()); len(unreached) != 1 || !strings.Contains(unreached[0], says) || len(unreached[0]) > 2000 {
			t.Errorf("%.20q: unreached %.3000q", text, unreached)
		}
		p.spoolOne()
		p.end()
	}
}

func TestSpools_that_cannot_be_opened_are_told_of_one_by_one_up_to_twenty(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/a", 0o700); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range maxTold + 5 {
		fmt.Fprintf(&text, "/nowhere/%d\n", i)
	}
	if err := os.WriteFile(dir+"/a/"+spool.PredecessorsFile, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startStore(t, dir, "a")
	defer p.end()
	for _, told := range [][]string{p.warnings, Unreached(p.status())} {
		if len(told) != maxTold+1 || !strings.Contains(told[maxTold], "5 more") {
			t.Errorf("told %d: %q", len(told), told)
		}
	}
}

func TestA_change_of_spool_that_cannot_be_remembered_is_refused_and_one_that_is_aborted_is_forgotten(t *testing.T) {
	dir := t.TempDir()
	p := startStore(t, dir, "a")
	defer p.end()
	p.spoolOne()
	if err := os.MkdirAll(dir+"/b/"+spool.PredecessorsFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/b", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := p.prepare(dir+"/b", spool.Limits{}); err == nil || !strings.Contains(err.Error(), "note where mail was spooled before: "+dir+"/b/predecessors: ") {
		t.Errorf("error %v", err)
	}
	if got := p.open(); got != "a" {
		t.Errorf("open: %s", got)
	}
	for _, name := range []string{"new", "x/y/new"} {
		c, err := p.prepare(dir+"/"+name, spool.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := remembered(t, dir, name); got != "a" {
			t.Errorf("%s remembers %q", name, got)
		}
		c.Abort()
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
	p.use("c")
	c, err := p.prepare(dir+"/a", spool.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	if got := remembered(t, dir, "a") + "," + remembered(t, dir, "c"); got != ",a" {
		t.Errorf("a and c remember %s", got)
	}
}

func TestNo_spool_with_mail_is_forgotten_however_reloads_and_closings_meet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := startStore(t, dir, "a")
		close(p.there)
		var writing sync.WaitGroup
		stop := make(chan struct{})
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(170 * time.Millisecond):
					p.spoolOne()
				}
			}
		})
		last := "a"
		for i := range 60 {
			name := string(rune('a' + i*i%4))
			if c := i % 3; c == 2 {
				change, err := p.prepare(dir+"/"+name, spool.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				change.Abort()
			} else {
				p.use(name)
				last = name
			}
			for _, st := range p.status()[1:] {
				if base := filepath.Base(st.Dir); !slices.Contains(strings.Fields(remembered(t, dir, last)), base) {
					t.Errorf("%s is open, and %s in use remembers %q", base, last, remembered(t, dir, last))
				}
			}
			time.Sleep(430 * time.Millisecond)
		}
		close(stop)
		writing.Wait()
		time.Sleep(time.Minute)
		if left, err := filepath.Glob(dir + "/*/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		p.end()
	})
}

func TestAn_operator_without_a_daemon_reaches_the_mail_of_predecessors(t *testing.T) {
	dir := t.TempDir()
	p := startStore(t, dir, "a")
	p.spoolOne()
	p.use("b")
	p.spoolOne()
	p.use("c")
	p.end()
	t.Chdir(dir)
	o, err := OpenSpooled("c", 0)
	if err != nil {
		t.Fatal(err)
	}
	all, err := ParseFilter(url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range o.Entries(t.Context(), all) {
		if err != nil {
			t.Fatal(err)
		}
		if r := o.remove(e.ID); r.Result != Removed {
			t.Errorf("%+v", r)
		}
		n++
	}
	if n != 2 || len(o.Unreached()) > 0 {
		t.Errorf("%d mails, warnings %q", n, o.Unreached())
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(dir + "/a"); err != nil {
		t.Fatal(err)
	}
	if o, err = OpenSpooled("c", 0); err != nil {
		t.Fatal(err)
	}
	if w := o.Unreached(); len(w) != 1 || !strings.Contains(w[0], dir+"/a") {
		t.Errorf("warnings %q", w)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

func TestA_start_warns_of_a_file_system_that_has_no_room_for_a_spool(t *testing.T) {
	p := startStore(t, t.TempDir(), "a")
	defer p.end()
	c, err := p.prepare(filepath.Join(p.dir, "a"), spool.Limits{MinFree: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	if len(p.warnings) > 0 || len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "no mail is spooled") {
		t.Errorf("warnings %q, and without a limit %q", c.warnings, p.warnings)
	}
}
