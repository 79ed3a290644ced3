package reload

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lsmtpd/routes/config"

	"github.com/fsnotify/fsnotify"
)

// pollInterval is how often the sources are looked at all the same: bind mounts, network file systems and replaced
// directories send no event.
const pollInterval = 5 * time.Second

// watcher tells when a source may have changed. An event only means "look again".
type watcher struct {
	log     *slog.Logger
	dirty   chan struct{} // holds a token when somebody should look again
	begin   func() (*fsnotify.Watcher, error)
	every   time.Duration // between two polls
	stop    chan struct{}
	running sync.WaitGroup

	// guarded by mu
	mu       sync.Mutex
	notify   *fsnotify.Watcher // nil where the system gave none
	sources  config.Sources
	names    map[string]bool        // whose events count
	dirs     map[string]fs.FileInfo // watched, as they were then
	degraded string                 // why events may be missing
}

func newWatcher(log *slog.Logger) *watcher {
	return &watcher{
		log: log, dirty: make(chan struct{}, 1), begin: fsnotify.NewWatcher, every: pollInterval,
		stop: make(chan struct{}), dirs: map[string]fs.FileInfo{},
	}
}

// open begins to watch, and to poll.
func (w *watcher) open() {
	notify, err := w.begin()
	w.mu.Lock()
	w.notify = notify
	if err != nil {
		w.notify = nil
		w.degrade("the system gives no file events: " + err.Error())
	}
	w.mu.Unlock()
	w.running.Go(w.run)
}

func (w *watcher) close() {
	close(w.stop)
	w.running.Wait()
}

// degrade notes that only the poll finds changes. The caller holds mu.
func (w *watcher) degrade(why string) {
	if w.degraded == "" {
		w.log.Warn("configuration changes are found by the poll only", "error", why, "interval", w.every)
	}
	w.degraded = why
}

// run passes events on and polls until the watcher is closed.
func (w *watcher) run() {
	poll := time.NewTicker(w.every)
	defer poll.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		defer w.notify.Close()
		events, errs = w.notify.Events, w.notify.Errors
	}
	for {
		select {
		case <-w.stop:
			return
		case e := <-events:
			if w.concerns(e) {
				w.mark()
			}
		case <-errs: // events were lost
			w.mark()
		case <-poll.C:
			if w.look() {
				w.mark()
			}
		}
	}
}

func (w *watcher) mark() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// unmark takes the token: the caller looks now.
func (w *watcher) unmark() {
	select {
	case <-w.dirty:
	default:
	}
}

// concerns tells whether an event is about a source, or about the directory of a pattern. A directory that goes takes its
// watch with it, even if another comes in its place and gets its inode.
func (w *watcher) concerns(e fsnotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirs[e.Name] != nil && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) {
		w.leave(e.Name)
		return true
	}
	return w.names[e.Name] || w.names[filepath.Dir(e.Name)]
}

// look tells whether any source differs from what was read, and watches again what was replaced.
func (w *watcher) look() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.follow()
	return w.sources.Changed()
}

// watch follows these sources from now on, and no others.
func (w *watcher) watch(sources config.Sources) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources = sources
	w.follow()
}

// follow makes the watched directories those of the sources. The caller holds mu.
func (w *watcher) follow() {
	if w.notify == nil {
		return
	}
	var wanted map[string]fs.FileInfo
	wanted, w.names = directories(w.sources.Paths)
	for dir, was := range w.dirs {
		if now := wanted[dir]; now == nil || !os.SameFile(now, was) {
			w.leave(dir)
		}
	}
	failed := ""
	for dir, info := range wanted {
		if w.dirs[dir] != nil {
			continue
		}
		if err := w.notify.Add(dir); err != nil {
			failed = "watch " + dir + ": " + err.Error()
			continue
		}
		w.dirs[dir] = info
	}
	if failed != "" {
		w.degrade(failed)
	} else {
		w.degraded = ""
	}
}

// leave watches dir no longer. The caller holds mu.
func (w *watcher) leave(dir string) {
	_ = w.notify.Remove(dir) // it may have gone with its directory
	delete(w.dirs, dir)
}

// directories returns where events about paths come from, and the names that they bear: of a path that is missing with its
// directory, the nearest that is there. A path that leads through a symbolic link needs none: the link is among the paths,
// and so is where it leads; and two names of one directory would share a watch, and lose it together.
func directories(paths []string) (dirs map[string]fs.FileInfo, names map[string]bool) {
	dirs, names = map[string]fs.FileInfo{}, make(map[string]bool, len(paths))
	looked := map[string]bool{}
	for _, path := range paths {
		names[path] = true
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, "any")
		}
		for dir := filepath.Dir(path); !looked[dir]; dir = filepath.Dir(dir) {
			looked[dir] = true
			info, err := os.Stat(dir)
			if err != nil {
				names[dir] = true
				continue
			}
			if plain, err := filepath.EvalSymlinks(dir); err == nil && plain == dir {
				dirs[dir] = info
			}
			break
		}
	}
	return dirs, names
}

func (w *watcher) status() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.degraded
}
