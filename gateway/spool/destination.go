package spool

import "time"

// destination is an exchange and a key, and the files that are ready to go there. After one that did not get through they go one at
// a time until one does.
type destination struct {
	exchange, key string
	files         int                  // entries that point here; the last one takes it along
	ready         queue[*entry]        // by rank
	trying        int                  // files in a replay's hands
	shut          bool                 // the last one did not get through
	why           string               // it did not; "" where it is not shut
	pause         time.Duration        // after the next return; 0 where it is not shut
	due           int64                // nothing is tried before; 0 where nobody waits for it
	slot          int32                // its place in the queue that it is in
	in            *queue[*destination] // nil where nothing can be tried
}

type destinationName struct{ exchange, key string }

// blockedPause is after how long an exchange in quarantine is asked for again.
const blockedPause = 5 * time.Second

// first tells which of two ready files of a destination goes first: what an operator asked for, then what was tried least, so that
// one file that nobody takes, or has memory for, does not stay the one that all others wait for.
func first(a, b *entry) bool {
	switch {
	case a.urgent != b.urgent:
		return a.urgent
	case a.crowded != b.crowded:
		return b.crowded
	case a.attempts != b.attempts:
		return a.attempts < b.attempts
	}
	return a.spooled < b.spooled
}

// destination returns the one of that name, which has one file more.
func (x *index) destination(exchange, key string) *destination {
	name := destinationName{exchange, key}
	d := x.destinations[name]
	if d == nil {
		d = &destination{exchange: exchange, key: key, ready: queue[*entry]{before: first, place: readySlot}}
		x.destinations[name] = d
	}
	d.files++
	return d
}

// abandon gives back what destination returned.
func (x *index) abandon(d *destination) {
	if d.files--; d.files == 0 {
		x.settle(d)
		delete(x.destinations, destinationName{d.exchange, d.key})
	}
}

// settle puts a destination into the queue where it belongs, after anything about it has changed.
func (x *index) settle(d *destination) {
	in := &x.order
	switch {
	case d.ready.Len() == 0 || d.shut && d.trying > 0:
		in = nil
	case d.due != 0:
		in = &x.resting
	}
	switch {
	case d.in == in && in != nil:
		in.fix(d)
	case d.in != in:
		if d.in != nil {
			d.in.remove(d)
		}
		if d.in = in; in != nil {
			in.push(d)
		}
	}
}

// rest has nothing tried for d before due.
func (x *index) rest(d *destination, due int64) {
	if d.in != nil { // its rank is another one in the queue that it goes to
		d.in.remove(d)
		d.in = nil
	}
	d.due = due
	x.settle(d)
}

// returned notes that a file of d did not get through. Those that were under way when the first came back count once.
func (x *index) returned(d *destination, why string, now int64) {
	d.why = why
	if d.due != 0 {
		return
	}
	d.shut = true
	d.pause = min(max(2*d.pause, firstBackOff), maxBackOff)
	x.rest(d, now+int64(d.pause))
}

// crowdedOut puts back a file for which there was no memory. Its destination rests, so that others have their turn.
func (x *index) crowdedOut(e *entry, now int64) {
	e.crowded = true
	x.move(e, ready)
	if e.to.due == 0 {
		x.rest(e.to, now+int64(blockedPause))
	}
}

// passed notes that a file of d was confirmed.
func (x *index) passed(d *destination) {
	if d.due != 0 {
		return // it went before another one came back
	}
	d.shut, d.why, d.pause = false, "", 0
	x.settle(d)
}
