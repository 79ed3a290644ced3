package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/spool"
)

const spoolLsHelp = `usage: lsmtpd spool ls [FLAGS]

Lists the mail that waits in the spool, oldest first. What is selected must
hold of a mail in every respect.

On a terminal an id is cut to its first eight digits, which every command takes
in its place as long as they are one mail's. Elsewhere nothing is cut. TRIES are
those that failed since the daemon started; mail whose exchange is missing or
refused is not tried at all before it is mended, which LAST ERROR then tells.

flags:
{flags}

exit status: 0 done, 1 it failed, or mail waits in a directory that cannot be
opened, 2 wrong usage or no daemon on --socket

examples:
  lsmtpd spool ls --failed
  lsmtpd spool ls --listener tenant-a --older 1h
  lsmtpd spool ls --json | jq -r .id
`

func runSpoolLs(p *program, args []string) int {
	f := p.flags("spool ls", spoolLsHelp)
	open := f.spool()
	selected := f.selection().withTo()
	bad := f.Bool("bad", false, "list the files in bad/ instead, which could not be read")
	asJSON := f.Bool("json", false, "print a JSON object for each, on one line")
	limit := f.Int("limit", 0, "stop after this `NUMBER`")
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	filter, err := selected.filter(nil)
	switch {
	case err != nil:
		return f.refuse(err)
	case *bad && len(filter.Values()) > 0:
		return f.refuse(errors.New("--bad lists files of which nothing is known to select by"))
	case *limit < 0:
		return f.refuse(fmt.Errorf("--limit %d: there is no less than nothing", *limit))
	}
	ctx := context.Background() // a signal ends the program
	a, err := open(ctx)
	if err != nil {
		return f.unanswered(err)
	}
	defer a.close()
	out := bufio.NewWriter(p.stdout)
	l := &listing{out: out, partial: a.partial, json: *asJSON, limit: *limit, width: terminalWidth(p.stdout), now: time.Now()}
	if *bad {
		err = l.bad(ctx, a)
	} else {
		err = l.mail(ctx, a, filter)
	}
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return f.failed(err)
	}
	return a.done(nil)
}

// listing is how a spool is listed.
type listing struct {
	out     *bufio.Writer
	partial bool // not all mail is reached
	json    bool
	limit   int // 0 is no end
	width   int // of the terminal; 0 where it is none
	now     time.Time
}

// totals are what is told below a list.
type totals struct {
	mails, failed, waiting, nowhere int
	octets                          int64
	oldest                          time.Time
	cut                             bool // there are more
}

// mail lists what filter means, as it comes: a million files are not held.
func (l *listing) mail(ctx context.Context, k keeper, filter *gateway.Filter) error {
	var sum totals
	rows := newMailTable(l.out, l.width)
	for e, err := range k.Entries(ctx, filter) {
		if err != nil {
			rows.flush()
			return err
		}
		if l.limit > 0 && sum.mails == l.limit {
			sum.cut = true
			break
		}
		sum.add(&e)
		if l.json {
			_, err = l.out.Write(jsonLine(&e))
		} else {
			err = rows.add(&e, l.now)
		}
		if err != nil {
			return err
		}
	}
	if l.json {
		return nil
	}
	if err := rows.flush(); err != nil {
		return err
	}
	text := sum.text(l.now, len(filter.Values()) > 0)
	if l.partial {
		text += "\nMore may wait where it is not reached: see the warning."
	}
	_, err := fmt.Fprintln(l.out, text)
	return err
}

func (s *totals) add(e *spool.Entry) {
	s.mails++
	s.octets += e.Size
	switch {
	case e.Attempts > 0:
		s.failed++
	case e.Waits != "":
		s.waiting++
	}
	if e.NoDestination {
		s.nowhere++
	}
	if s.oldest.IsZero() || e.SpooledAt.Before(s.oldest) {
		s.oldest = e.SpooledAt
	}
}

// text is the line below a list, which shows what was selected only, where selected.
func (s *totals) text(now time.Time, selected bool) string {
	if s.mails == 0 && selected {
		return "No mail in the spool is like that."
	}
	if s.mails == 0 {
		return "No mail waits in the spool."
	}
	text := fmt.Sprintf("%s, %s, the oldest for %s", count(s.mails, "mail"), sizeText(s.octets), shortAge(now.Sub(s.oldest)))
	if s.failed > 0 {
		text += fmt.Sprintf(", %d tried in vain", s.failed)
	}
	if s.waiting > 0 {
		text += fmt.Sprintf(", %d as its destination takes none", s.waiting)
	}
	if s.nowhere > 0 {
		text += fmt.Sprintf(", %d without a destination (lsmtpd spool replay --to EXCHANGE:KEY)", s.nowhere)
	}
	if s.cut {
		text += "; there is more"
	}
	return text
}

// bad lists the files that could not be read.
func (l *listing) bad(ctx context.Context, k keeper) error {
	rows := &table{out: l.out, width: l.width, columns: []column{{title: "FILE"}, {title: "MOVED"}, {title: "REASON"}}}
	if l.width > 0 {
		rows.columns, rows.below, rows.wrap = rows.columns[:2], []string{"REASON"}, true // all of it is wanted, be it long
	}
	n, more := 0, false
	var dirs []string
	for e, err := range k.Bad(ctx) {
		if err != nil {
			rows.flush()
			return err
		}
		if l.limit > 0 && n == l.limit {
			more = true
			break
		}
		if n++; !slices.Contains(dirs, e.Dir) {
			dirs = append(dirs, e.Dir)
		}
		if l.json {
			_, err = l.out.Write(jsonLine(&e))
		} else if cells := []string{e.Name, shortAge(l.now.Sub(e.MovedAt))}; l.width > 0 {
			err = rows.add(cells, e.Reason)
		} else {
			err = rows.add(append(cells, e.Reason))
		}
		if err != nil {
			return err
		}
	}
	if l.json {
		return nil
	}
	if err := rows.flush(); err != nil {
		return err
	}
	text := "No file was put aside."
	if n > 0 {
		for i, dir := range dirs {
			dirs[i] = printableLine(filepath.Join(dir, "bad"))
		}
		text = fmt.Sprintf("%s in %s, as they were found; lsmtpd never deletes them", count(n, "file"), strings.Join(dirs, " and "))
	}
	if more {
		text += "; there are more"
	}
	_, err := fmt.Fprintln(l.out, text)
	return err
}
