package gateway

import (
	"log/slog"
	"sync"
	"time"
)

// refusalsPerSecond is how many refusals of one listener are logged a second. The rest is counted, and the count logged.
const refusalsPerSecond = 10

// refusalLog keeps a listener's refusals from flooding the log. The zero refusalLog is ready.
type refusalLog struct {
	// guarded by mu
	mu         sync.Mutex
	logged     int
	suppressed int
	running    bool // the second is counted
}

// admit tells whether one more refusal may be logged now. When it is the last for this second, summary gets the count of
// those that were not, once the second is over.
func (l *refusalLog) admit(log *slog.Logger) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		l.running = true
		time.AfterFunc(time.Second, func() { l.next(log) })
	}
	if l.logged < refusalsPerSecond {
		l.logged++
		return true
	}
	l.suppressed++
	return false
}

// next begins a new second.
func (l *refusalLog) next(log *slog.Logger) {
	l.mu.Lock()
	n := l.suppressed
	l.logged, l.suppressed, l.running = 0, 0, false
	l.mu.Unlock()
	if n > 0 {
		log.Info("more refusals, not logged one by one", "count", n)
	}
}
