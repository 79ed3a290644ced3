package reload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/routes"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a configuration file and a Reloader, whose Apply remembers what it was given.
type site struct {
	*Reloader
	t    testing.TB
	dir  string        // without symbolic links
	took time.Duration // that Apply takes

	mu     sync.Mutex
	fault  error // of Apply
	tables []*routes.Table
	more   chan struct{} // closed, and replaced, with each table
}

// newSite makes a site whose file says content. It runs until t ends.
func newSite(t testing.TB, content string) *site {
	t.Helper()
	s := emptySite(t)
	s.write(content)
	return s
}

func emptySite(t testing.TB) *site {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, more: make(chan struct{})}
	s.Reloader = &Reloader{Path: filepath.Join(dir, "lsmtpd.yaml"), Apply: s.apply, Log: slog.New(slog.DiscardHandler)}
	s.init()
	return s
}

// deaf lets the system give no events: what a test's clock drives must not wait for the kernel's.
func (s *site) deaf() *site {
	s.watcher.begin = func() (*fsnotify.Watcher, error) { return nil, errors.New("no inotify instance left") }
	return s
}

// blind lets nothing but events tell of changes.
func (s *site) blind() *site {
	s.watcher.every = 24 * time.Hour
	return s
}

// run runs the Reloader until t ends, and returns after the first load.
func (s *site) run() *site {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(Report) { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
	return s
}

func (s *site) apply(_ context.Context, t *routes.Table) (routes.Applied, error) {
	if s.took > 0 {
		time.Sleep(s.took)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return routes.Applied{}, s.fault
	}
	s.tables = append(s.tables, t)
	close(s.more)
	s.more = make(chan struct{})
	return routes.Applied{Generation: uint64(len(s.tables))}, nil
}

// fail lets Apply fail from now on; nil lets it succeed.
func (s *site) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
}

// applied returns the tables that were put in force.
func (s *site) applied() []*routes.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tables)
}

// inForce names the listeners in force.
func (s *site) inForce() string {
	tables := s.applied()
	return names(tables[len(tables)-1])
}

func names(t *routes.Table) string {
	var all []string
	for _, l := range t.Listeners {
		all = append(all, l.Name)
	}
	return strings.Join(all, " ")
}

// await waits until the listeners in force are these.
func (s *site) await(names string) {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		more := s.more
		s.mu.Unlock()
		if s.inForce() == names {
			return
		}
		select {
		case <-more:
		case <-deadline:
			s.t.Fatalf("%q in force, not %q; status %+v", s.inForce(), names, s.Status())
		}
	}
}

// write writes the configuration in place.
func (s *site) write(content string) {
	s.t.Helper()
	if err := os.WriteFile(s.Path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// replace puts content in the file's place at once.
func (s *site) replace(content string) {
	s.t.Helper()
	next := filepath.Join(s.dir, fmt.Sprintf(".next%d", time.Now().UnixNano()))
	s.must(os.WriteFile(next, []byte(content), 0o600))
	s.must(os.Rename(next, s.Path))
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// reload is a reload by command.
func (s *site) reload() Report {
	s.t.Helper()
	report, err := s.Reload(context.Background(), Command)
	s.must(err)
	return report
}

// listeners is a file with listeners of these names, each on a port of its own and with size_limit that many octets.
func listeners(size int, names ...string) string {
	var b strings.Builder
	b.WriteString("listeners:\n")
	for i, name := range names {
		fmt.Fprintf(&b, "  - name: %s\n    address: 127.0.0.1:%d\n    exchange: x\n    size_limit: %d\n", name, 2000+i, size)
	}
	return b.String()
}

// results tells what the reloads came to: "start applied, watch rejected".
func results(reports []Report) string {
	all := make([]string, len(reports))
	for i, r := range reports {
		all[i] = string(r.Trigger) + " " + string(r.Result)
	}
	return strings.Join(all, ", ")
}
