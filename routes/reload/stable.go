package reload

import (
	"context"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

const (
	tornTime  = 5 * time.Second        // that a file which looks half written is read again
	tornPause = 20 * time.Millisecond  // between two looks, at first
	tornMost  = 250 * time.Millisecond // between two looks, later
)

// read reads and compiles the configuration. What looks like half a write, because it changed while it was read, is empty or
// does not end in a newline, is read again for tornTime where patient says so; then it is taken for what it is, and the next
// time at once. The Config is there beside an error too, with the sources as far as they were found.
func (r *Reloader) read(ctx context.Context, patient bool) (*routes.Table, *config.Config, error) {
	var running *config.Config
	if r.table != nil {
		running = r.table.Config
	}
	pause := tornPause
	for deadline := time.Now().Add(tornTime); ; {
		r.watcher.unmark() // whatever it saw is read now
		table, c, err := routes.Read(r.Path, running)
		why := c.Sources.Torn()
		if why == "" || c.Digest == r.odd {
			return table, c, err
		}
		if patient && ctx.Err() != nil {
			return nil, c, ErrStopped // nothing is known to be wrong with it
		}
		if !patient || !time.Now().Before(deadline) {
			r.odd = c.Digest
			return table, c, err
		}
		r.Log.Debug("configuration looks half written, reading again", "why", why)
		sleep(ctx, pause)
		pause = min(2*pause, tornMost)
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
