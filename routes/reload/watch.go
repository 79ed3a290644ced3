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
	log   *slog.Logger
	dirty chan struct{} // holds a token when somebody should look again

	// guarded by mu
	mu       sync.Mutex
	notify   *fsnotify.Watcher // nil where the system gave none
	sources  config.Sources
	paths    map[string]bool        // the sources'
	dirs     map[string]fs.FileInfo // watched, as they were then
	degraded string                 // why events may be missing
}

func newWatcher(log *slog.Logger) *watcher {
	w := &watcher{log: log, dirty: make(chan struct{}, 1), dirs: map[string]fs.FileInfo{}}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.degrade("the system gives no file events: " + err.Error())
	}
	return w
}

// degrade notes that only the poll finds changes. The caller holds mu or is alone.
func (w *watcher) degrade(why string) {
	if w.degraded == "" {
		w.log.Warn("configuration changes are found by the poll only", "error", why, "interval", pollInterval)
	}
	w.degraded = why
}

// run passes events on and polls until stop is closed.
func (w *watcher) run(stop <-chan struct{}) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		defer w.notify.Close()
		events, errs = w.notify.Events, w.notify.Errors
	}
	for {
		select {
		case <-stop:
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

// concerns tells whether an event is about a source, or about the directory of a pattern.
func (w *watcher) concerns(e fsnotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paths[e.Name] || w.paths[filepath.Dir(e.Name)]
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
	w.paths = make(map[string]bool, len(sources.Paths))
	for _, path := range sources.Paths {
		w.paths[path] = true
	}
	w.follow()
}

// follow makes the watched directories those of the sources. The caller holds mu.
func (w *watcher) follow() {
	if w.notify == nil {
		return
	}
	wanted := map[string]bool{}
	for path := range w.paths {
		wanted[filepath.Dir(path)] = true
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			wanted[path] = true
		}
	}
	for dir := range w.dirs {
		if !wanted[dir] {
			_ = w.notify.Remove(dir)
			delete(w.dirs, dir)
		}
	}
	failed := ""
	for dir := range wanted {
		info, err := os.Stat(dir)
		if err == nil && w.dirs[dir] != nil && os.SameFile(info, w.dirs[dir]) {
			continue
		}
		if w.dirs[dir] != nil {
			_ = w.notify.Remove(dir)
			delete(w.dirs, dir)
		}
		if err == nil {
			err = w.notify.Add(dir)
		}
		if err != nil {
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

func (w *watcher) status() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.degraded
}
