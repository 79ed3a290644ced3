package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxShown is how many octets of a log a failed test shows.
const maxShown = 16 << 10

// Line is one line of what the daemon printed.
type Line struct {
	Index  int // counts from 0
	Text   string
	fields map[string]any // nil where the line is not JSON
}

// Field is a field of the log's as text: msg, level and whatever else; "" where it is missing.
func (l Line) Field(name string) string {
	v, ok := l.fields[name]
	if !ok {
		return ""
	}
	return fmt.Sprint(v)
}

// log takes what a daemon prints and cuts it into lines.
type log struct {
	mu    sync.Mutex // guards what follows
	part  []byte     // of the next line
	lines []Line
	more  chan struct{} // closed, and replaced, with each new line

	ended <-chan struct{} // closed when nothing more will come; nil where nobody tells
}

func newLog() *log { return &log{more: make(chan struct{})} }

// output is the end of a log that a process writes to.
type output struct{ to *log }

func (o output) Write(b []byte) (int, error) {
	l := o.to
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		line, rest, whole := bytes.Cut(l.part, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		next := Line{Index: len(l.lines), Text: string(line)}
		_ = json.Unmarshal(line, &next.fields) // a line that is not JSON has no fields
		l.lines = append(l.lines, next)
		l.part = rest
		close(l.more)
		l.more = make(chan struct{})
	}
}

// Lines is what the daemon has printed so far, from line number from on.
func (l *log) Lines(from int) []Line {
	lines, _ := l.since(from)
	return lines
}

// since returns the lines from from on, and what is closed when there are more.
func (l *log) since(from int) ([]Line, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[min(from, len(l.lines)):], l.more
}

// Text is all that the daemon has printed so far.
func (l *log) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines {
		b.WriteString(line.Text)
		b.WriteByte('\n')
	}
	b.Write(l.part)
	return b.String()
}

// Await returns the first line at or after number from that matches; it waits for it a minute at most, and not beyond the daemon's
// end. what names it for the test's failure. To wait for the next of its kind, go on from its Index+1.
func (l *log) Await(t testing.TB, what string, from int, matches func(Line) bool) Line {
	t.Helper()
	deadline := time.After(patience)
	ended := l.ended
	for last := false; ; {
		lines, more := l.since(from)
		for _, line := range lines {
			if matches(line) {
				return line
			}
		}
		if last {
			t.Fatalf("lsmtpd ended, and its log does not say: %s", what)
		}
		from += len(lines)
		select {
		case <-more:
		case <-ended:
			last = true // once more: for what it said last
		case <-deadline:
			t.Fatalf("the log does not say within %v: %s", patience, what)
		}
	}
}
