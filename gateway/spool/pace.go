package spool

import "time"

const (
	slowest = 50 * time.Millisecond // between two files, at most, for the sake of live mail: 20 a second
	restFor = 3                     // times as long as the last file took, while live mail is under way
	catchUp = 50 * time.Millisecond // what a replay that was late may make up for
)

// pace says when a replay may try its next file: at replay_rate, and slowly beside live mail.
type pace struct {
	next  time.Duration // by replay_rate
	began time.Duration // when the last one was tried
	any   bool          // was tried
	ended time.Duration // when the last result came
	took  time.Duration // the try that it is of
}

// traffic is what live mail does.
type traffic struct {
	live bool // it is under way
	busy bool // it waits for its turn
}

// wait returns how long the next file has to wait, 0 where it need not.
func (p *pace) wait(now time.Duration, rate int, t traffic) time.Duration {
	var wait time.Duration
	if rate > 0 {
		wait = p.next - now
	}
	if t.live {
		wait = max(wait, p.ended+min(restFor*p.took, slowest)-now)
	}
	if t.busy && p.any {
		wait = max(wait, p.began+slowest-now)
	}
	return max(wait, 0)
}

// went notes that a file is tried.
func (p *pace) went(now time.Duration, rate int) {
	p.began, p.any = now, true
	if rate > 0 {
		p.next = max(p.next, now-catchUp) + time.Second/time.Duration(rate)
	}
}

// came notes the result of a try that began at.
func (p *pace) came(now, at time.Duration) { p.ended, p.took = now, now-at }
