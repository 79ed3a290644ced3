package spool

import "slices"

const (
	// maxWriters bounds the files being written at once: each sits in fsync with a thread of its own, and with a piece of its mail
	// encoded in memory.
	maxWriters = 64
	// writersBeside is how many files of one listener are written at once while the broker takes mail: on one disk its fsyncs slow the
	// broker's confirms for everybody. In an outage there is no such limit.
	writersBeside = 4
	// maxOfListener bounds the octets of one listener's large files being written. A larger one goes alone.
	maxOfListener = 8 << 20
	// maxLarge bounds those of all listeners.
	maxLarge = 32 << 20
	// leastTurn is for how many octets a file counts at least: its fsync takes as long as they do.
	leastTurn = 16 << 10
)

// turns says whose file is written next: of those who wait, a listener's that had least so far. Large files have a line of their own,
// so that no small one waits for them. Whoever uses it holds the Spool's lock.
type turns struct {
	writing int     // files
	large   int64   // octets of those of them that are large
	now     int64   // what who had least had, when the last turn came
	waiting []*lane // those with a line, in no order
}

// lane is the small files of a listener, or its large ones.
type lane struct {
	from   *origin
	large  bool
	line   []*turn
	octets int64 // of its files being written
	had    int64 // octets that it was given; what it did not ask for counts as given
}

// turn is a file that is written, or waits for that.
type turn struct {
	in   *lane
	size int64
	come chan struct{} // closed when it may be written
}

// lane returns the one for a file of size octets.
func (o *origin) lane(size int64) *lane {
	if size > piece {
		return &o.large
	}
	return &o.small
}

// ask lets a file of a listener wait for its turn, which may come at once.
func (t *turns) ask(o *origin, size int64, beside bool) *turn {
	w := &turn{in: o.lane(size), size: size, come: make(chan struct{})}
	if len(w.in.line) == 0 {
		t.waiting = append(t.waiting, w.in)
	}
	w.in.line = append(w.in.line, w)
	t.grant(beside)
	return w
}

// grant has all write who may. beside tells that the broker takes mail.
func (t *turns) grant(beside bool) {
	for t.writing < maxWriters {
		l := t.next(beside)
		if l == nil {
			return
		}
		w := l.line[0]
		t.leave(w)
		t.now = max(t.now, l.had)
		l.had = t.now + max(w.size, leastTurn)
		t.count(w, 1)
		close(w.come)
	}
}

// next returns the lane whose first file comes next; nil where none may.
func (t *turns) next(beside bool) (first *lane) {
	var large *lane
	for _, l := range t.waiting {
		switch {
		case beside && l.from.writing >= writersBeside:
		case !l.large && (first == nil || l.had < first.had):
			first = l
		case l.large && fits(l.line[0].size, l.octets, maxOfListener) && (large == nil || l.had < large.had):
			large = l
		}
	}
	if large != nil && fits(large.line[0].size, t.large, maxLarge) && (first == nil || large.had < first.had) {
		return large
	}
	return first
}

// fits tells whether size octets may be added to those under way: always where there are none.
func fits(size, underWay, most int64) bool { return underWay == 0 || underWay+size <= most }

// count adds n times w to what is written.
func (t *turns) count(w *turn, n int) {
	t.writing += n
	w.in.from.writing += n
	w.in.octets += int64(n) * w.size
	if w.in.large {
		t.large += int64(n) * w.size
	}
}

// leave takes w, whose turn has not come, out of its line.
func (t *turns) leave(w *turn) {
	l := w.in
	if l.line = slices.DeleteFunc(l.line, func(other *turn) bool { return other == w }); len(l.line) == 0 {
		t.waiting = slices.DeleteFunc(t.waiting, func(other *lane) bool { return other == l })
	}
}

// end gives back the turn of w, which has come.
func (t *turns) end(w *turn, beside bool) {
	t.count(w, -1)
	t.grant(beside)
}
