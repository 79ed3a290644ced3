package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"lsmtpd/gateway"
)

const (
	barWidth   = 24
	barMeasure = 70                     // columns that a bar with its figures takes; a narrower terminal gets the figures only
	barEvery   = 100 * time.Millisecond // on a terminal
	lineEvery  = 10 * time.Second       // elsewhere
	clearLine  = "\r\x1b[K"
)

// progress tells how far long work is: on a terminal in one line that is written again, elsewhere in a line now and then.
type progress struct {
	w     io.Writer
	text  func(width int) string // of now; width is 0 where there is no terminal
	width int
	every time.Duration
	next  time.Time
	shown bool // something is on the terminal
}

func newProgress(w io.Writer, text func(width int) string) *progress {
	p := &progress{w: w, text: text, width: terminalWidth(w), every: lineEvery}
	if p.width > 0 {
		p.every = barEvery
	}
	p.next = time.Now().Add(p.every)
	return p
}

// step is called after each piece of work; it writes when it is time to.
func (p *progress) step() {
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(p.every)
	text := p.text(p.width)
	if p.width == 0 {
		fmt.Fprintln(p.w, text)
		return
	}
	p.shown = true
	fmt.Fprint(p.w, clearLine+cutEnd(text, p.width-1))
}

// end takes the line off the terminal.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, clearLine)
	}
}

// bar is s while it grows, with a bar where a terminal of width columns has room for it.
func (s *summary) bar(width int) string {
	done, total := s.done(), s.total
	text := fmt.Sprintf("%d of %d  %s", done, total, s.counts("to go"))
	if s.changed > 0 && done == s.results[gateway.Gone]+s.results[gateway.Failed] { // none is tried before all have it
		done = min(done+s.changed, total)
		text = fmt.Sprintf("%d of %d  have the new destination", done, total)
	}
	if width < barMeasure {
		return text
	}
	full := barWidth * done / max(total, 1)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]  " + text
}
