package reload

import (
	"fmt"
	"strings"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// Trigger is who asked for a reload.
type Trigger string

// The triggers.
const (
	Start   Trigger = "start"   // the first load
	Watch   Trigger = "watch"   // a file changed
	Signal  Trigger = "signal"  // SIGHUP
	Command Trigger = "command" // the admin socket
	Retry   Trigger = "retry"   // the last one failed for a cause that may pass
)

// Result is how a reload ended.
type Result string

// The results.
const (
	Applied   Result = "applied"
	Unchanged Result = "unchanged" // the content in force is the content of the files
	Rejected  Result = "rejected"  // the table in force stays, whole
)

// Report tells what one reload did. It is what the log, the admin socket and the history carry.
type Report struct {
	ID         uint64                   `json:"id"` // counts from 1 in this process
	Trigger    Trigger                  `json:"trigger"`
	Result     Result                   `json:"result"`
	Generation uint64                   `json:"generation"` // of the table in force afterwards
	Time       time.Time                `json:"time"`       // when it began
	Duration   float64                  `json:"duration_ms"`
	Before     string                   `json:"digest_before,omitempty"` // SHA-256 of what was in force
	After      string                   `json:"digest_after,omitempty"`  // SHA-256 of what was read
	Changes    []config.Change          `json:"changes,omitempty"`       // the first maxChanges
	More       int                      `json:"more_changes,omitempty"`  // how many there are beyond those
	Listeners  []routes.AppliedListener `json:"listeners,omitempty"`
	Warnings   []string                 `json:"warnings,omitempty"`
	Errors     []string                 `json:"errors,omitempty"` // faults each begin with file:line:col; of one applied: of included files that were left out
}

// String is the report on one line, for logs that are read by people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "by %s in %.1f ms, generation %d", r.Trigger, r.Duration, r.Generation)
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "; %s: %s: %q → %q", c.Place, c.Key, c.Old, c.New)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "; and %d more changes", r.More)
	}
	for _, l := range r.Listeners {
		if l.Action != routes.Kept {
			fmt.Fprintf(&b, "; %s %s on %s", l.Action, l.Name, l.Address)
		}
	}
	for _, w := range r.Warnings {
		b.WriteString("; warning: " + w)
	}
	for _, e := range r.Errors {
		b.WriteString("; error: " + e)
	}
	return b.String()
}

// maxChanges bounds a report, which the log and the history carry: of a thousand listeners a single key more is a thousand changes.
const maxChanges = 100

// historySize is how many reports are kept.
const historySize = 20

// Status is the state of reloading, and all that the metrics lsmtpd_config_* tell.
type Status struct {
	Path          string                        `json:"path"`
	Generation    uint64                        `json:"generation"`
	Digest        string                        `json:"digest"`                   // of what is in force
	Applied       time.Time                     `json:"applied"`                  // when it was put in force
	Succeeded     time.Time                     `json:"succeeded"`                // when the last reload found it in force, or put it there
	Degraded      bool                          `json:"degraded"`                 // the files say something that is not in force
	Kept          bool                          `json:"kept,omitempty"`           // degraded, but applied: broken included files' last good listeners stay
	Errors        []string                      `json:"errors,omitempty"`         // why
	WatchDegraded string                        `json:"watch_degraded,omitempty"` // why only the poll finds changes
	Reloads       map[Trigger]map[Result]uint64 `json:"reloads"`
}
