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

// read reads and compiles the configuration. A file that looks like half a write, because it changed while it was read, is
// empty or does not end in a newline, is read again for tornTime where patient says so; then it is taken for what it is.
// The Config is there beside an error too, with the sources as far as they were found.
func (r *Reloader) read(ctx context.Context, patient bool) (*routes.Table, *config.Config, error) {
	pause := tornPause
	for deadline := time.Now().Add(tornTime); ; {
		table, c, err := routes.Read(r.Path)
		if why := c.Sources.Torn(); why != "" && patient && time.Now().Before(deadline) && ctx.Err() == nil {
			r.Log.Debug("configuration looks half written, reading again", "why", why)
			sleep(ctx, pause)
			pause = min(2*pause, tornMost)
			continue
		}
		return table, c, err
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
