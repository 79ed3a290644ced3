// Package reload decides when the configuration is read again, reads it whole, and tells what came of it. It does not know
// what a table is put in force by: that is Apply's.
package reload

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

const (
	quietTime   = 250 * time.Millisecond // without an event before the file is read
	quietMost   = 2 * time.Second        // after which it is read all the same
	removalTime = 2 * time.Second        // that the watcher alone must see the same octets before anything is removed
	retryFirst  = time.Second
	retryMost   = time.Minute
)

// ErrStopped is the answer to a reload asked of a Reloader that stops.
var ErrStopped = errors.New("the daemon is stopping")

// Reloader owns reloading. Fill in the fields, then Run it.
type Reloader struct {
	Path  string
	Apply func(context.Context, *routes.Table) (routes.Applied, error)
	Mend  func() routes.Applied // called where what is in force stays so: nothing new, or nothing good; nil: there is nothing to mend
	Log   *slog.Logger

	once     sync.Once
	requests chan request
	signals  chan struct{} // holds a token when a signal asked
	stopped  chan struct{}
	watcher  *watcher

	// owned by Run
	table *routes.Table // in force
	retry time.Duration // the last pause before trying again; 0 where nothing failed
	due   struct {      // zero: not due
		quiet, latest time.Time // when the watcher's find is read: the earlier of both
		settled       time.Time // when a removal has stood long enough
		again         time.Time // when a failed one is tried again
	}
	standing string // digest of the removal that waits for due.settled
	tried    string // digest of what Apply refused, and is tried again; "" where it was the reading that failed
	odd      string // digest of what looked half written for long enough to be taken for what it is

	// guarded by mu
	mu      sync.Mutex
	status  Status
	history []Report
	last    uint64
}

type request struct {
	by     Trigger
	answer chan Report
}

func (r *Reloader) init() {
	r.once.Do(func() {
		r.requests = make(chan request)
		r.signals = make(chan struct{}, 1)
		r.stopped = make(chan struct{})
		r.watcher = newWatcher(r.Log)
		r.status = Status{Path: r.Path, Reloads: map[Trigger]map[Result]uint64{}}
	})
}

// Run loads and applies the configuration, and again whenever that is due, until ctx ends. Its error is why the first load
// failed: config.Faults, or Apply's. ready is called after the first.
func (r *Reloader) Run(ctx context.Context, ready func(Report)) error {
	r.init()
	defer close(r.stopped)
	r.watcher.open()
	defer r.watcher.close()
	report, err := r.load(ctx, Start, false)
	if err != nil {
		return err
	}
	ready(report)
	if r.watcher.look() {
		r.watcher.mark() // it changed while it was put in force
	}
	for r.next(ctx) {
	}
	return nil
}

// Reload reloads, and returns the report of a reload that began after the call. Its error is ctx's, or ErrStopped.
func (r *Reloader) Reload(ctx context.Context, by Trigger) (Report, error) {
	r.init()
	req := request{by, make(chan Report, 1)}
	select {
	case r.requests <- req:
	case <-r.stopped:
		return Report{}, ErrStopped
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	select {
	case report := <-req.answer:
		return report, nil
	case <-r.stopped: // with the answer, perhaps
		select {
		case report := <-req.answer:
			return report, nil
		default:
			return Report{}, ErrStopped
		}
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
}

// Hangup asks for a reload by signal and does not wait. Those that come while one is due are one.
func (r *Reloader) Hangup() {
	r.init()
	select {
	case r.signals <- struct{}{}:
	default:
	}
}

// Status returns the present state.
func (r *Reloader) Status() Status {
	r.init()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.WatchDegraded = r.watcher.status()
	s.Reloads = map[Trigger]map[Result]uint64{}
	for by, results := range r.status.Reloads {
		s.Reloads[by] = map[Result]uint64{}
		for result, n := range results {
			s.Reloads[by][result] = n
		}
	}
	return s
}

// History returns the last reports, the newest last.
func (r *Reloader) History() []Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Report(nil), r.history...)
}

// next waits for the next thing to do, and does it. It returns false when ctx has ended.
func (r *Reloader) next(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(r.soonest()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case req := <-r.requests:
		if ctx.Err() != nil {
			return false // Run's end is the answer
		}
		r.answer(ctx, req)
	case <-r.signals:
		r.load(ctx, Signal, false)
	case <-r.watcher.dirty:
		now := time.Now()
		r.due.quiet = now.Add(quietTime)
		if r.due.latest.IsZero() {
			r.due.latest = now.Add(quietMost)
		}
	case <-timer.C:
		r.overdue(ctx)
	}
	return true
}

// soonest is when the earliest thing is due.
func (r *Reloader) soonest() time.Time {
	at := time.Now().Add(time.Hour)
	for _, due := range []time.Time{r.due.quiet, r.due.latest, r.due.settled, r.due.again} {
		if !due.IsZero() && due.Before(at) {
			at = due
		}
	}
	return at
}

// overdue does what the clock asks for.
func (r *Reloader) overdue(ctx context.Context) {
	past := func(t time.Time) bool { return !t.IsZero() && !t.After(time.Now()) }
	switch {
	case past(r.due.quiet), past(r.due.latest), past(r.due.settled):
		r.load(ctx, Watch, true)
	case past(r.due.again):
		r.load(ctx, Retry, true)
	}
}

// answer reloads once for req and everybody who asked meanwhile.
func (r *Reloader) answer(ctx context.Context, req request) {
	asked := []request{req}
	for {
		select {
		case req := <-r.requests:
			asked = append(asked, req)
			continue
		default:
		}
		break
	}
	report, err := r.load(ctx, req.by, false)
	if err == ErrStopped {
		return // Run's end is the answer
	}
	for _, req := range asked {
		req.answer <- report
	}
}

// load is the pipeline: read stably, compile, compare, apply, report. careful lets a change that removes anything wait until
// it has stood for removalTime; there is no report then yet. The error is why the table was rejected.
func (r *Reloader) load(ctx context.Context, by Trigger, careful bool) (Report, error) {
	report := Report{Trigger: by, Time: time.Now()}
	r.due.quiet, r.due.latest, r.due.again = time.Time{}, time.Time{}, time.Time{}
	if by != Retry {
		r.retry = 0
	}
	table, read, err := r.read(ctx, by != Start)
	r.watcher.watch(read.Sources)
	report.After = read.Digest
	if r.table != nil {
		report.Before = r.table.Config.Digest
	}
	if by == Retry && r.tried != "" && read.Digest != r.tried {
		r.watcher.mark() // somebody writes meanwhile: that is for the watcher to find, in its own time
		return report, nil
	}
	if err == nil && r.table != nil {
		if read.Digest == report.Before {
			r.forget()
			r.mend(&report)
			return r.conclude(report, Unchanged, nil), nil
		}
		report.Changes = config.Diff(r.table.Config, read)
		if careful && removes(report.Changes) && read.Digest != r.tried && !r.hasStood(read.Digest) {
			return report, nil
		}
	}
	r.forget()
	if err == ErrStopped {
		return report, err
	}
	if err != nil && read.Sources.Passing() {
		r.again("")
	}
	if err != nil {
		return r.reject(report, err), err
	}
	for _, w := range table.Warnings {
		report.Warnings = append(report.Warnings, w.String())
	}
	applied, err := r.Apply(ctx, table)
	if err != nil && by != Start && ctx.Err() != nil {
		return report, ErrStopped // who stops applies nothing: that says nothing about the files
	}
	if err != nil {
		r.again(read.Digest)
		return r.reject(report, err), err
	}
	r.table, r.retry, r.tried = table, 0, ""
	report.Generation = applied.Generation
	report.Warnings = append(report.Warnings, applied.Warnings...)
	report.Listeners = markUpdated(applied.Listeners, report.Changes)
	return r.conclude(report, Applied, nil), nil
}

// reject concludes a reload in vain. A socket whose file is gone is made again all the same: who asks what is wrong needs one.
func (r *Reloader) reject(report Report, err error) Report {
	r.mend(&report)
	return r.conclude(report, Rejected, err)
}

// mend has mended what is in force, if anything is, and enters in report what came of it.
func (r *Reloader) mend(report *Report) {
	if r.Mend == nil || r.table == nil {
		return
	}
	mended := r.Mend()
	report.Listeners, report.Warnings = mended.Listeners, append(report.Warnings, mended.Warnings...)
}

// hasStood tells whether the removal in these octets has been seen for long enough; if not, it is looked at again.
func (r *Reloader) hasStood(digest string) bool {
	if r.standing == digest {
		return !r.due.settled.After(time.Now())
	}
	r.standing, r.due.settled = digest, time.Now().Add(removalTime)
	r.Log.Info("the files say less than before: put in force if they stay so", "wait", removalTime.String())
	return false
}

// forget drops what waits for its time: the files have just been looked at.
func (r *Reloader) forget() {
	r.standing, r.due.settled, r.due.again = "", time.Time{}, time.Time{}
}

// again lets what failed be tried once more: a busy port may become free. tried is the digest of what Apply refused.
func (r *Reloader) again(tried string) {
	r.tried = tried
	r.retry = min(max(2*r.retry, retryFirst), retryMost)
	r.due.again = time.Now().Add(r.retry)
}

// conclude completes a report, counts it, keeps it and logs it; but a state is told once, not with each attempt or touch.
func (r *Reloader) conclude(report Report, result Result, err error) Report {
	report.Result = result
	report.Errors = lines(err)
	if err == nil {
		report.Errors = lines(r.table.Broken)
	}
	if n := len(report.Changes); n > maxChanges {
		report.Changes, report.More = slices.Clone(report.Changes[:maxChanges]), n-maxChanges
	}
	report.Duration = float64(time.Since(report.Time).Microseconds()) / 1000
	known := r.count(&report)
	level := slog.LevelInfo
	switch {
	case known, report.Trigger == Start && result == Rejected: // whoever started us tells why it was in vain
		level = slog.LevelDebug
	case result == Rejected:
		level = slog.LevelError
	case len(report.Errors) > 0:
		level = slog.LevelWarn
	}
	r.Log.LogAttrs(context.Background(), level, "configuration "+string(result), slog.Any("report", report))
	return report
}

// count enters report into the status, and into the history unless it is known: it was nobody's wish, and tells nothing that
// the one before did not.
func (r *Reloader) count(report *Report) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	report.ID = r.last
	s := &r.status
	if report.Result == Applied {
		s.Generation, s.Digest, s.Applied = report.Generation, report.After, time.Now()
	}
	if report.Result != Rejected {
		s.Succeeded = time.Now()
	}
	report.Generation = s.Generation
	unasked := report.Trigger == Retry && report.Result == Rejected || report.Trigger == Watch && report.Result == Unchanged
	known = unasked && len(report.Listeners) == 0 && slices.Equal(s.Errors, report.Errors)
	s.Errors = report.Errors
	s.Degraded = len(s.Errors) > 0
	s.Kept = s.Degraded && report.Result != Rejected
	if s.Reloads[report.Trigger] == nil {
		s.Reloads[report.Trigger] = map[Result]uint64{}
	}
	s.Reloads[report.Trigger][report.Result]++
	if !known {
		r.history = append(r.history, *report)
		r.history = r.history[max(len(r.history)-historySize, 0):]
	}
	return known
}

// lines returns an error a line each, as the report has them.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	if faults, ok := errors.AsType[config.Faults](err); ok && len(faults) == 0 {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// removes tells whether any change takes something away: a file that was cut short would.
func removes(changes []config.Change) bool {
	return slices.ContainsFunc(changes, func(c config.Change) bool { return c.Removed })
}

// markUpdated tells the listeners that were kept as they are from those with a change of their own.
func markUpdated(listeners []routes.AppliedListener, changes []config.Change) []routes.AppliedListener {
	changed := map[string]bool{}
	for _, c := range changes {
		if rest, ok := strings.CutPrefix(c.Key, "listeners["); ok {
			name, _, _ := strings.Cut(rest, "]")
			changed[name] = true
		}
	}
	for i := range listeners {
		if l := &listeners[i]; l.Action == routes.Kept && changed[l.Name] {
			l.Action = routes.Updated
		}
	}
	return listeners
}
