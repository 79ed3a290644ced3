package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"lsmtpd/gateway/spool"

	"golang.org/x/term"
)

const (
	laidOut     = 200 // rows that are seen before the widths of the columns are decided
	wideEnough  = 120 // columns of a terminal from which on a mail fits on one line
	unknownSize = 80  // columns of a terminal that does not tell
	gap         = "  "
)

// table is text in columns that begins to be printed before all of it is known. On a terminal its lines are no longer than that
// is wide.
type table struct {
	out     *bufio.Writer
	width   int // 0 is no limit
	columns []column
	below   []string // the titles of the lines below rows
	wrap    bool     // what is below a row takes as many lines as it needs

	rows   []row // until the widths are decided
	widths []int // of the columns; nil until then
}

type column struct {
	title string
	least int                          // figures of that many digits are usual; 0: the title is enough
	right bool                         // figures
	cut   func(s string, n int) string // how a cell is made to fit; nil leaves the column as wide as it has to be
}

type row struct {
	cells []string
	below []string // in a line of its own, indented: one, and what is told with it; none is no line
}

// add prints a row, or keeps it until enough are there to decide how wide the columns are.
func (t *table) add(cells []string, below ...string) error {
	r := row{cells, below}
	for _, texts := range [][]string{cells, below} {
		for i := range texts {
			texts[i] = printableLine(texts[i])
		}
	}
	if t.widths != nil {
		return t.print(r)
	}
	t.rows = append(t.rows, r)
	if len(t.rows) < laidOut {
		return nil
	}
	return t.flush()
}

// flush prints what was kept.
func (t *table) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	t.layOut()
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	for _, r := range append([]row{{titles, t.below}}, t.rows...) {
		if err := t.print(r); err != nil {
			return err
		}
	}
	t.rows = nil
	return nil
}

// layOut decides the widths: what the kept rows need, and where that is too much for the terminal, less for the widest columns that
// may be cut. Room that is left is for the rows to come.
func (t *table) layOut() {
	t.widths = make([]int, len(t.columns))
	room := t.width - len(gap)*(len(t.columns)-1)
	var elastic []int
	for i, c := range t.columns {
		t.widths[i] = max(displayWidth(c.title), c.least)
		for _, r := range t.rows {
			t.widths[i] = max(t.widths[i], displayWidth(r.cells[i]))
		}
		if c.cut != nil {
			elastic = append(elastic, i)
		}
		room -= t.widths[i]
	}
	if t.width == 0 || len(elastic) == 0 {
		return
	}
	for ; room < 0; room++ {
		widest := elastic[0]
		for _, i := range elastic {
			if t.widths[i] >= t.widths[widest] {
				widest = i
			}
		}
		if t.widths[widest] == 0 {
			return // a terminal too narrow for the rest breaks the lines
		}
		t.widths[widest]--
	}
	if len(t.rows) == laidOut {
		for _, i := range elastic {
			t.widths[i] += room / len(elastic)
		}
	}
}

func (t *table) print(r row) error {
	var b strings.Builder
	for i, c := range t.columns {
		cell := r.cells[i]
		if t.width > 0 && c.cut != nil {
			cell = c.cut(cell, t.widths[i])
		}
		pad := strings.Repeat(" ", max(0, t.widths[i]-displayWidth(cell)))
		if c.right {
			cell = pad + cell
		} else {
			cell += pad
		}
		if i > 0 {
			b.WriteString(gap)
		}
		b.WriteString(cell)
	}
	line := strings.TrimRight(b.String(), " ") + "\n"
	if t.wrap {
		line += wrapped(strings.Join(r.below, gap), t.width)
	} else if len(r.below) > 0 {
		line += below(r.below, t.width) + "\n"
	}
	_, err := t.out.WriteString(line)
	return err
}

// wrapped is text in indented lines that are no longer than width, broken between words where it can be.
func wrapped(text string, width int) string {
	const indent = "  "
	room := max(width-len(indent), 1)
	var b strings.Builder
	for text != "" {
		n := max(fits(text, room), len(firstRune(text)))
		if n < len(text) && text[n] != ' ' {
			if at := strings.LastIndexByte(text[:n], ' '); at > n/2 {
				n = at
			}
		}
		b.WriteString(indent + strings.TrimSpace(text[:n]) + "\n")
		text = strings.TrimLeft(text[n:], " ")
	}
	return b.String()
}

// below is the line under a row. Where there is not room for all, what is told with the first text gets half of it.
func below(texts []string, width int) string {
	const indent = "          " // an id that is cut, and a gap
	room := width - len(indent)
	first, more := texts[0], strings.Join(texts[1:], gap)
	if more == "" {
		return indent + cutMiddle(first, room)
	}
	room -= len(gap)
	first = cutMiddle(first, max(room/2, room-displayWidth(more)))
	return indent + first + gap + cutEnd(more, room-displayWidth(first))
}

// mailTable is the table of spooled mail: a line a mail where there is room, else two.
type mailTable struct {
	table
	narrow bool
	whole  bool // ids are not cut
}

// newMailTable prints to out, a terminal of that width unless it is 0.
func newMailTable(out *bufio.Writer, width int) *mailTable {
	t := &mailTable{table: table{out: out, width: width}, narrow: width > 0 && width < wideEnough, whole: width == 0}
	t.columns = []column{
		{title: "ID"}, {title: "AGE", right: true}, {title: "SIZE", least: len("999KiB"), right: true}, {title: "TRIES", right: true},
		{title: "LISTENER", cut: cutEnd}, {title: "FROM", cut: cutMiddle}, {title: "RECIPIENTS", cut: cutMiddle},
	}
	if t.narrow {
		t.below = []string{"DESTINATION", "LAST ERROR"}
		return t
	}
	t.columns = append(t.columns, column{title: "DESTINATION", cut: cutMiddle}, column{title: "LAST ERROR", cut: cutEnd})
	return t
}

// add prints a mail as it is at the time now.
func (t *mailTable) add(e *spool.Entry, now time.Time) error {
	id := e.ID.String()
	if !t.whole {
		id = id[:8]
	}
	size, listener, sender, recipients := sizeText(e.Size), e.Listener, senderText(e.Sender), recipientsText(e.Recipients)
	if e.NoHead {
		size, listener = unknown, unknown
	}
	if e.NoEnvelope {
		sender, recipients = unknown, unknown
	}
	cells := []string{id, shortAge(now.Sub(e.SpooledAt)), size, fmt.Sprint(e.Attempts), listener, sender, recipients}
	why := e.LastError
	if why == "" && e.Waits != "" {
		why = "waits: " + e.Waits
	}
	if t.narrow {
		return t.table.add(cells, destinationText(e), why)
	}
	return t.table.add(append(cells, destinationText(e), why))
}

// unknown stands for what cannot be read.
const unknown = "?"

// senderText is a sender for people.
func senderText(sender string) string {
	if sender == "" {
		return "<>"
	}
	return sender
}

// recipientsText is the first recipient and how many more there are.
func recipientsText(recipients []string) string {
	switch n := len(recipients); n {
	case 0:
		return ""
	case 1:
		return recipients[0]
	default:
		return fmt.Sprintf("%s +%d", recipients[0], n-1)
	}
}

// destinationText is where a mail goes, as --to of "spool replay" has it.
func destinationText(e *spool.Entry) string {
	if e.NoDestination {
		return "(no destination)"
	}
	if e.NoHead {
		return unknown
	}
	return e.Exchange + ":" + e.RoutingKey
}

// cutEnd makes s fit into n columns by its end.
func cutEnd(s string, n int) string {
	if displayWidth(s) <= n {
		return s
	}
	return s[:fits(s, n-1)] + "…"
}

// cutMiddle makes s fit into n columns and leaves both ends, of the last one more: an address ends with its domain.
func cutMiddle(s string, n int) string {
	if displayWidth(s) <= n {
		return s
	}
	tail := max(n-1, 0) * 3 / 5
	return s[:fits(s, n-1-tail)] + "…" + s[len(s)-fitsBehind(s, tail):]
}

// shortAge is a duration in the largest unit that it fills.
func shortAge(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// sizeText is a number of octets in units of the configuration's, with three digits at most.
func sizeText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n)/1024, 0
	for ; value >= 1000 && unit < 3; unit++ {
		value /= 1024
	}
	decimals := 0
	if value < 9.95 {
		decimals = 1
	}
	return fmt.Sprintf("%.*f%s", decimals, value, []string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

// terminalWidth is how many columns w has; 0 where it is no terminal.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	if width, _, err := term.GetSize(int(w.(*os.File).Fd())); err == nil && width > 0 {
		return width
	}
	return unknownSize
}
