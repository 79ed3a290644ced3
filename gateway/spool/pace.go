package spool

import "time"

const (
	slowest = 20                    // files a second that a replay is never slower than for the sake of live mail
	catchUp = 50 * time.Millisecond // what a replay that was late may make up for
)

// pace says when a replay may try its next file: at replay_rate, and slowly while live mail waits.
type pace struct {
	next time.Duration // by replay_rate
	last time.Duration // when the last one was tried
	any  bool          // was tried
}

// wait returns how long the next file has to wait, 0 where it need not.
func (p *pace) wait(now time.Duration, rate int, busy bool) time.Duration {
	var wait time.Duration
	if rate > 0 {
		wait = p.next - now
	}
	if busy && p.any {
		wait = max(wait, p.last+time.Second/slowest-now)
	}
	return max(wait, 0)
}

// went notes that a file is tried.
func (p *pace) went(now time.Duration, rate int) {
	p.last, p.any = now, true
	if rate > 0 {
		p.next = max(p.next, now-catchUp) + time.Second/time.Duration(rate)
	}
}
