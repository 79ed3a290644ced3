package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"lsmtpd/gateway"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write what is printed into the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is printed:\n%s", path, got)
	}
}

// fileID is an id that says its number.
func fileID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("%08x-0000-4000-8000-000000000000", n))
}

// variety is mail as it comes, the lengths and the letters that a sender chooses among it.
func variety(now time.Time) []spool.Entry {
	return []spool.Entry{
		{ID: fileID(1), SpooledAt: now.Add(-400 * time.Hour), Size: 13_312, Listener: "tenant-a", Sender: "ann@example.com",
			Recipients: []string{"bob@b.example"}, Exchange: "tenant-a", RoutingKey: "mail.b.example", Attempts: 117,
			LastError: "no queue takes it: 312 NO_ROUTE"},
		{ID: fileID(2), SpooledAt: now.Add(-3 * time.Hour), Size: 999, Listener: "tenant-a",
			Recipients: []string{"somebody.with.a.very.long.local.part@and.a.domain.that.is.long.too.example", "b@x", "c@x"},
			Exchange:   "", RoutingKey: "a-queue"},
		{ID: fileID(3), SpooledAt: now.Add(-59 * time.Second), Size: 52 << 20, Listener: "a-listener-with-a-name-that-nobody-would-type", Sender: "\x1b[2Jred\u202e@example.com",
			Recipients: []string{"\"two\nlines\"@b.example"}, Exchange: "tenant-a", RoutingKey: strings.Repeat("key.", 60), Attempts: 1,
			LastError: "exchange \"tenant-a\": NOT_FOUND - no exchange 'tenant-a' in vhost '/', and more words than any terminal has room for on one line"},
		{ID: fileID(4), SpooledAt: now, Size: 1 << 40, Listener: "", Sender: "old@lsmtpd.example", Recipients: []string{"bob@b.example"}, NoDestination: true},
	}
}

func TestThe_table_of_spooled_mail_fits_the_terminal_and_shows_nothing_raw(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, width := range []int{0, 40, 80, 119, 120, 160, 400} {
		var b bytes.Buffer
		out := bufio.NewWriter(&b)
		rows := newMailTable(out, width)
		for _, e := range variety(now) {
			if err := rows.add(&e, now); err != nil {
				t.Fatal(err)
			}
		}
		if err := rows.flush(); err != nil {
			t.Fatal(err)
		}
		out.Flush()
		if width == 0 || width == 80 || width == 160 {
			golden(t, fmt.Sprintf("spool-%d.golden", width), b.String())
		}
		for line := range strings.Lines(b.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); width >= 80 && n > width {
				t.Errorf("%d columns on a terminal of %d: %s", n, width, line)
			}
			if strings.ContainsFunc(line, obeyed) {
				t.Errorf("a terminal obeys %q", line)
			}
		}
	}
}

func TestWhat_is_not_known_of_a_mail_is_a_question_mark(t *testing.T) {
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	rows := newMailTable(out, 0)
	e := spool.Entry{ID: fileID(1), SpooledAt: time.Now(), NoHead: true, NoEnvelope: true, LastError: "permission denied"}
	if err := errors.Join(rows.add(&e, e.SpooledAt), rows.flush(), out.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, got, _ := strings.Cut(strings.TrimSpace(b.String()), "\n"); strings.Join(strings.Fields(got)[1:], " ") != "0s ? 0 ? ? ? ? permission denied" {
		t.Error(got)
	}
}

func TestRows_that_come_after_the_widths_were_decided_fit_them(t *testing.T) {
	now := time.Now()
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	rows := newMailTable(out, 160)
	e := spool.Entry{SpooledAt: now, Sender: "a@b", Recipients: []string{"c@d"}, Exchange: "x", RoutingKey: "k"}
	for range laidOut {
		if err := rows.add(&e, now); err != nil {
			t.Fatal(err)
		}
	}
	if rows.rows != nil {
		t.Errorf("%d rows are kept", len(rows.rows))
	}
	for _, e := range variety(now) {
		if err := rows.add(&e, now); err != nil {
			t.Fatal(err)
		}
	}
	out.Flush()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 1+laidOut+4 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > 160 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestSizes_have_three_digits_at_most_and_the_units_of_the_configuration(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1.0KiB", 1024: "1.0KiB", 10_188: "9.9KiB", 10_189: "10KiB", 1023 << 10: "1.0MiB",
		52 << 20: "52MiB", 5 << 30: "5.0GiB", 1 << 40: "1.0TiB", 5 << 50: "5120TiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestA_summary_counts_what_stays_and_groups_the_reasons(t *testing.T) {
	s := summary{total: 10}
	for i, o := range []gateway.Outcome{
		{Result: gateway.Delivered}, {Result: gateway.Gone},
		{Result: gateway.Refused, Reason: "NO_ROUTE"}, {Result: gateway.Refused, Reason: "NO_ROUTE"},
		{Result: gateway.Refused, Reason: "NO_ROUTE"}, {Result: gateway.Refused, Reason: "NO_ROUTE"},
		{Result: gateway.Failed, Reason: "\x1b[2J"}, {Result: gateway.Busy, Reason: "being published"},
	} {
		o.ID = fileID(i)
		s.add(o)
	}
	const want = `10 mails: 1 delivered, 1 gone meanwhile, 4 refused, 1 being published, 1 failed, 2 not tried
  4 refused: NO_ROUTE (00000002-0000-4000-8000-000000000000, 00000003-0000-4000-8000-000000000000, 00000004-0000-4000-8000-000000000000, …)
  1 busy: being published (00000007-0000-4000-8000-000000000000)
  1 failed: \x1b[2J (00000006-0000-4000-8000-000000000000)
`
	if got := s.text(); got != want {
		t.Errorf("got:\n%s", got)
	}
	if s.left() != 8 {
		t.Errorf("%d are left", s.left())
	}
}

func TestThe_reason_of_a_bad_file_is_whole_on_a_terminal_in_lines_that_fit(t *testing.T) {
	reason := "head: json: unknown field \"priority\", " + strings.Repeat("and more words ", 10) + strings.Repeat("x", 200) + " \x1b[2J end"
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	l := &listing{out: out, width: 80, now: time.Now()}
	if err := l.bad(t.Context(), badOnly{e: spool.BadEntry{Name: fileID(1).String() + ".json", Reason: reason, MovedAt: l.now}}); err != nil {
		t.Fatal(err)
	}
	out.Flush()
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !strings.HasPrefix(line, "1 file") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	squeeze := strings.NewReplacer(" ", "", "\n", "")
	if got := squeeze.Replace(b.String()); !strings.Contains(got, squeeze.Replace(printableLine(reason))) {
		t.Errorf("the reason is not whole:\n%s", b.String())
	}
}

// badOnly is a keeper of one file in bad/.
type badOnly struct {
	keeper
	e spool.BadEntry
}

func (b badOnly) Bad(context.Context) iter.Seq2[spool.BadEntry, error] {
	return func(yield func(spool.BadEntry, error) bool) { yield(b.e, nil) }
}

func TestListeners_are_counted_the_most_mails_first_and_only_some_are_named(t *testing.T) {
	few := found{taken: map[string]int{"b": 2, "a": 2, "\x1b[2J": 3, "": 1}}
	if got, want := few.listeners(), `3 of \x1b[2J, 2 of a, 2 of b, 1 of no known listener`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	many := found{taken: map[string]int{}}
	for i := range maxSample + 2 {
		many.taken[fmt.Sprint(i)] = 100 - i
	}
	if got := many.listeners(); !strings.HasPrefix(got, "100 of 0, ") || !strings.HasSuffix(got, "91 of 9, the rest of 2 listeners more") {
		t.Error(got)
	}
}

func TestThe_bar_is_drawn_where_there_is_room(t *testing.T) {
	s := summary{total: 1000}
	for range 500 {
		s.add(gateway.Outcome{Result: gateway.Delivered})
	}
	for width, want := range map[int]string{
		80: "[############............]  500 of 1000  500 delivered, 500 to go",
		60: "500 of 1000  500 delivered, 500 to go",
		0:  "500 of 1000  500 delivered, 500 to go",
	} {
		if got := s.bar(width); got != want {
			t.Errorf("at %d: %s", width, got)
		}
	}
}

func TestThe_bar_shows_how_many_have_the_new_destination_before_the_first_is_tried(t *testing.T) {
	s := summary{total: 10}
	for i := range 5 {
		s.add(gateway.Outcome{ID: fileID(i), Result: gateway.Moved, Moved: true})
	}
	if got, want := s.bar(0), "5 of 10  have the new destination"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s.add(gateway.Outcome{Result: gateway.Delivered})
	if got, want := s.bar(0), "1 of 10  1 delivered, 9 to go"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s.add(gateway.Outcome{Result: gateway.Untried, Moved: true})
	if got, want := s.text(), "10 mails: 1 delivered, 9 not tried\n  1 mail stays in the spool with the new destination\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestProgress_stays_on_one_line_of_a_terminal_and_is_gone_at_the_end(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, func(int) string { return "half of what there is to be done is done" })
	p.step() // too soon
	p.next = time.Time{}
	p.step()
	p.end()
	if b.String() != "half of what there is to be done is done\n" {
		t.Errorf("elsewhere: %q", b.String())
	}
	b.Reset()
	p.width, p.next = 20, time.Time{}
	p.step()
	p.end()
	if b.String() != "\r\x1b[Khalf of what there…\r\x1b[K" {
		t.Errorf("on a terminal: %q", b.String())
	}
}

func TestA_spool_of_another_user_is_told_with_the_command_that_works(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives directories away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 54321, -1); err != nil {
		t.Fatal(err)
	}
	_, err := openSpool(&config.Config{Spool: config.Spool{Dir: dir}})
	if want := "run this as that user, with: sudo -u '#54321' lsmtpd spool"; err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}

func TestThe_status_says_of_a_spool_that_cannot_be_opened_that_its_mail_is_unseen_and_counts_none(t *testing.T) {
	got := spoolText(spool.Status{Dir: "/old", NotOpen: "spool /old: there is no such directory"}, time.Now(), true)
	want := "/old: not in use any more, and what mail is left there waits unseen:\n        spool /old: there is no such directory"
	if got != want {
		t.Errorf("%q", got)
	}
}

func TestThe_status_says_of_a_spool_that_was_moved_away_that_it_takes_no_mail(t *testing.T) {
	got := spoolText(spool.Status{Dir: "/spool", Astray: "it is elsewhere"}, time.Now(), false)
	if want := "/spool: 0 waiting\n        takes no mail: it is elsewhere"; got != want {
		t.Errorf("%q", got)
	}
}

func TestA_question_does_not_keep_a_daemon_from_the_spool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	open := func(context.Context) (*access, error) {
		local, err := gateway.OpenSpooled(dir, 0)
		return &access{keeper: local, local: local}, err
	}
	a, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.again = open
	err = a.asking(t.Context(), func() error {
		daemon, err := gateway.OpenSpooled(dir, 0)
		if err != nil {
			return err
		}
		return daemon.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.OpenSpooled(dir, 0); err == nil {
		t.Error("after the answer the spool is not open")
	}
	a.close()
}

func TestA_daemon_that_does_not_answer_is_as_none(t *testing.T) {
	var stderr bytes.Buffer
	p := &program{stderr: &stderr}
	if status := p.flags("spool ls", "").unanswered(errSilent); status != exitUsage || !strings.Contains(stderr.String(), "does not answer within 5s") {
		t.Errorf("exit status %d: %s", status, stderr.String())
	}
}

func TestStatus_tells_when_a_spool_refused_mail_and_of_no_error_that_is_over(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	st := spool.Status{
		Dir: "/spool", Refused: 2, LastRefusal: "no room for more mail: spool.max_bytes of 7 is reached", LastRefusalAt: now.Add(-time.Minute),
		LastError: "write: no space left on device", LastErrorAt: now.Add(-time.Hour),
	}
	want := "/spool: 0 waiting\n        refused mail 2 times, the last time 1m0s ago: no room for more mail: spool.max_bytes of 7 is reached"
	if got := spoolText(st, now, false); got != want+"\n        last error 1h0m0s ago: write: no space left on device" {
		t.Error(got)
	}
	st.Mended = true
	if got := spoolText(st, now, false); got != want {
		t.Error(got)
	}
}
