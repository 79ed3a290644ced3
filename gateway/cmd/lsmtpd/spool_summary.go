package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lsmtpd/gateway"

	"github.com/google/uuid"
)

const (
	maxReasons = 20 // that a summary tells; the rest is counted
	maxNamed   = 3  // ids told with a reason
)

// summary is what became of the mail that a command worked on.
type summary struct {
	total   int // mails it was to work on
	results map[gateway.Result]int
	changed int // mails that were given another destination, and have something to come
	moved   int // mails that stay, and have the destination that they were given
	reasons map[reason]*named
}

// reason is why mail stays.
type reason struct {
	result gateway.Result
	text   string
}

// named is how many mails something is true of, and which the first are.
type named struct {
	n     int
	first []uuid.UUID
}

func (s *summary) add(o gateway.Outcome) {
	if s.results == nil {
		s.results, s.reasons = map[gateway.Result]int{}, map[reason]*named{}
	}
	if o.Result == gateway.Moved {
		s.changed++
		return
	}
	s.results[o.Result]++
	if !stays(o.Result) {
		return
	}
	if o.Moved {
		s.moved++
	}
	if o.Result == gateway.Untried {
		return // why is the error of them all
	}
	why := reason{o.Result, o.Reason}
	of := s.reasons[why]
	if of == nil {
		of = &named{}
		s.reasons[why] = of
	}
	if of.n++; of.n <= maxNamed {
		of.first = append(of.first, o.ID)
	}
}

// stays tells the results of mail that is still in the spool.
func stays(r gateway.Result) bool {
	return r != gateway.Delivered && r != gateway.Removed && r != gateway.Gone
}

// done is how many mails something became of.
func (s *summary) done() int {
	n := 0
	for _, of := range s.results {
		n += of
	}
	return n
}

// left is how many mails of the total are still in the spool.
func (s *summary) left() int {
	n := s.total - s.done()
	for r, of := range s.results {
		if stays(r) {
			n += of
		}
	}
	return n
}

// counts is the results in few words; rest is what is said of mail that nothing became of.
func (s *summary) counts(rest string) string {
	var parts []string
	for _, of := range []struct {
		n    int
		what string
	}{
		{s.results[gateway.Delivered], "delivered"},
		{s.results[gateway.Removed], "removed"},
		{s.results[gateway.Gone], "gone meanwhile"},
		{s.results[gateway.Refused], "refused"},
		{s.results[gateway.Undecided], "unconfirmed"},
		{s.results[gateway.Busy], "being published"},
		{s.results[gateway.Failed], "failed"},
		{s.total - s.done() + s.results[gateway.Untried], rest},
	} {
		if of.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", of.n, of.what))
		}
	}
	return strings.Join(parts, ", ")
}

// text is the results and, line by line, why mail stays.
func (s *summary) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", count(s.total, "mail"), s.counts("not tried"))
	common := slices.SortedFunc(maps.Keys(s.reasons), func(x, y reason) int {
		return cmp.Or(cmp.Compare(s.reasons[y].n, s.reasons[x].n), cmp.Compare(x.result, y.result), cmp.Compare(x.text, y.text))
	})
	for i, why := range common {
		if i == maxReasons {
			fmt.Fprintf(&b, "  and %s more\n", count(len(common)-i, "reason"))
			break
		}
		of := s.reasons[why]
		ids := make([]string, len(of.first))
		for i, id := range of.first {
			ids[i] = id.String()
		}
		if of.n > len(ids) {
			ids = append(ids, "…")
		}
		fmt.Fprintf(&b, "  %d %s: %s (%s)\n", of.n, why.result, printableLine(why.text), strings.Join(ids, ", "))
	}
	if s.moved > 0 {
		fmt.Fprintf(&b, "  %s in the spool with the new destination\n", remains(s.moved))
	}
	return b.String()
}
