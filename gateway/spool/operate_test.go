package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

// entries returns what s lists.
func entries(t testing.TB, s *Spool) []Entry {
	t.Helper()
	var all []Entry
	for e, err := range s.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// ofLSMTPD puts a file of LSMTPD's own into dir: its six keys, and no destination. It returns its id.
func ofLSMTPD(t *testing.T, dir, messageID string) uuid.UUID {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	if messageID == "" {
		messageID = id.String()
	}
	text := fmt.Sprintf(` { "timestamp": "2025-09-23T23:18:51.477629045+00:00", "message_id": %q, "client_address": "client.example",
		"recipients": ["a@example.org", "b@example.org"], "email_content": "Subject: old\r\n\r\nx", "sender": "from@example.org" }`+"\n", messageID)
	if err := os.WriteFile(filepath.Join(dir, fileName(id)), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	written := time.Date(2025, 9, 23, 23, 18, 51, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, fileName(id)), written, written); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestEntries_tells_of_each_delivery_oldest_first(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	var want []uuid.UUID
	for i, format := range []string{mail.JSON, mail.Raw, mail.JSON, mail.Raw} {
		d := someDelivery(format, bytes.Repeat([]byte("\"},\"sender\":\"forged@example.net\"\\\n\x01"), i*200))
		d.Recipients = append(d.Recipients, address.Address{Local: `we"ird`, Domain: "example.net"})
		mustPut(t, s, d)
		s.Settle(d.ID, false)
		want = append(want, d.ID)
	}
	mustClose(t, s)
	old := ofLSMTPD(t, dir, "")
	s = opened(t, dir)
	got := entries(t, s)
	if len(got) != 5 {
		t.Fatalf("%d entries", len(got))
	}
	for i, id := range want {
		e := got[i+1]
		info, err := os.Stat(filepath.Join(dir, fileName(id)))
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != id || e.Size != info.Size() || e.Listener != "inbound" || e.Sender != "from@example.org" || e.Exchange != "lsmtp" ||
			e.RoutingKey != "mail.<example>.org" || e.NoDestination || e.Attempts != 0 || e.SpooledAt.IsZero() || !e.NextTry.IsZero() ||
			!slices.Equal(e.Recipients, []string{"to@example.org", `"we\"ird"@example.net`}) || e.Format != []string{mail.JSON, mail.Raw}[i%2] {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	if e := got[0]; e.ID != old || !e.NoDestination || e.Sender != "from@example.org" || len(e.Recipients) != 2 || e.Exchange != "" || e.SpooledAt.Year() != 2025 {
		t.Errorf("LSMTPD's own is %+v", e)
	}
}

func TestEntries_reads_what_jq_wrote_anew(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	d := putReady(t, s, mail.Raw, "x")
	mustClose(t, s)
	path := filepath.Join(dir, fileName(d.ID))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`,"sender":`), []byte(",\n  \"sender\": "), 1)
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	s = opened(t, dir)
	if got := entries(t, s); len(got) != 1 || got[0].Sender != "from@example.org" || len(got[0].Recipients) != 1 {
		t.Errorf("entries %+v", got)
	}
}

func TestEntries_ends_with_its_context_and_with_who_has_enough(t *testing.T) {
	s := opened(t, spoolDir(t))
	for range 10 {
		putReady(t, s, mail.JSON, "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range s.Entries(ctx) {
		if n++; n == 3 {
			cancel()
		}
		last = err
	}
	if n != 4 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d entries, then %v", n, last)
	}
	for range s.Entries(t.Context()) {
		break
	}
	for range s.Bad(t.Context()) {
		t.Error("something is in bad/")
	}
}

func TestRead_gives_the_mail_itself_in_either_format(t *testing.T) {
	s := opened(t, spoolDir(t))
	for _, format := range []string{mail.JSON, mail.Raw} {
		octets := "Subject: Gr\xfc\xdfe\r\n\r\n\x00\"\r\n"
		d := putReady(t, s, format, octets)
		got, e, err := s.Read(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Content.Octets()) != octets || got.Encoded || e.ID != d.ID || got.Exchange != d.Exchange || got.Format != format || got.Headers["tenant"] != "a" {
			t.Errorf("%s: %+v with %q, %+v", format, got, got.Content.Octets(), e)
		}
		got.Content.Release()
	}
	if _, _, err := s.Read(t.Context(), uuid.New()); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestRemove_deletes_what_waits_and_nothing_that_is_being_published(t *testing.T) {
	dir := spoolDir(t)
	old := ofLSMTPD(t, dir, "")
	s := mustOpen(t, dir)
	indexedNow(s)
	held := someDelivery(mail.JSON, nil)
	mustPut(t, s, held)
	waits := putReady(t, s, mail.JSON, "x")
	if err := s.Remove(held.ID); !errors.Is(err, ErrBusy) {
		t.Errorf("held: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_ = s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		if err := s.Remove(d.ID); !errors.Is(err, ErrBusy) {
			t.Errorf("being published: %v", err)
		}
		if err := s.Redirect(t.Context(), d.ID, Destination{"y", ""}); !errors.Is(err, ErrBusy) {
			t.Errorf("being published: %v", err)
		}
		cancel()
		return Stop, nil
	})
	for _, id := range []uuid.UUID{waits.ID, old} {
		if err := s.Remove(id); err != nil {
			t.Error(err)
		}
		if err := s.Remove(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("again: %v", err)
		}
	}
	if st := s.Status(); st.Files != 1 || st.NoDestination != 0 {
		t.Errorf("status %+v", st)
	}
	mustClose(t, s)
	if names := files(t, dir); len(names) != 1 || names[0] != fileName(held.ID) {
		t.Errorf("files %v", names)
	}
	if err := s.Remove(held.ID); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestRemove_that_fails_leaves_the_file_where_it_was(t *testing.T) {
	s, d := openFaulty(t, spoolDir(t), false, syscall.EPERM)
	defer mustClose(t, s)
	m := putReady(t, s, mail.JSON, "x")
	d.breaks("remove")
	if err := s.Remove(m.ID); !errors.Is(err, syscall.EPERM) {
		t.Errorf("error %v", err)
	}
	d.breaks("")
	if got := replayed(t, s, 1); got[0].id != m.ID {
		t.Errorf("replayed %v", got)
	}
}

func TestRedirect_sends_a_file_elsewhere_for_good(t *testing.T) {
	for _, named := range []bool{false, true} {
		for _, format := range []string{mail.JSON, mail.Raw} {
			dir := spoolDir(t)
			s, _ := openFaulty(t, dir, named, nil)
			indexedNow(s)
			d := putReady(t, s, format, "x\r\n")
			other := putReady(t, s, format, "y\r\n")
			before := entries(t, s)
			if err := s.Redirect(t.Context(), d.ID, Destination{"elsewhere", "a.longer.key.than.before"}); err != nil {
				t.Fatal(err)
			}
			octets := s.Status().Octets
			mustClose(t, s)

			s = mustOpen(t, dir)
			indexedNow(s)
			if got := s.Status().Octets; got != octets {
				t.Errorf("%d octets on disk, %d were counted", got, octets)
			}
			got := replayed(t, s, 2)
			if got[0].id != d.ID || got[0].exchange != "elsewhere" || got[0].routingKey != "a.longer.key.than.before" ||
				got[0].payload != string(d.AppendPayload(nil)) || !got[0].spooledAt.Equal(before[0].SpooledAt) {
				t.Errorf("replayed %v", got[0])
			}
			if got[1].id != other.ID || got[1].exchange != other.Exchange {
				t.Errorf("replayed %v", got[1])
			}
			mustClose(t, s)
			if names := files(t, dir); len(names) > 0 {
				t.Errorf("files %v", names)
			}
		}
	}
}

func TestRedirect_keeps_where_the_mail_was_accepted_for(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	d := putReady(t, s, mail.JSON, "x")
	old := ofLSMTPD(t, dir, "")
	mustClose(t, s)
	s = mustOpen(t, dir)
	indexedNow(s)
	accepted := func(id uuid.UUID) *Destination {
		t.Helper()
		for _, e := range entries(t, s) {
			if e.ID == id {
				return e.AcceptedFor
			}
		}
		t.Fatalf("%s is not there", id)
		return nil
	}
	for i, to := range []Destination{{d.Exchange, d.RoutingKey}, {"first", "a"}, {"second", ""}, {d.Exchange, d.RoutingKey}} {
		for _, id := range []uuid.UUID{d.ID, old} {
			if err := s.Redirect(t.Context(), id, to); err != nil {
				t.Fatal(err)
			}
		}
		got := accepted(d.ID)
		if i == 0 && got != nil {
			t.Errorf("it was where it is sent to, and is told to have been for %+v", got)
		}
		if want := (Destination{d.Exchange, d.RoutingKey}); i > 0 && (got == nil || *got != want) {
			t.Errorf("on its way to %+v it was accepted for %+v, want %+v", to, got, want)
		}
	}
	mustClose(t, s)
	s = opened(t, dir)
	indexedNow(s)
	if got := accepted(d.ID); got == nil || got.Exchange != d.Exchange {
		t.Errorf("after a restart it was accepted for %+v", got)
	}
	if got := accepted(old); got == nil || got.Exchange != d.Exchange {
		t.Errorf("LSMTPD's own, which was given %q first, was accepted for %+v", d.Exchange, got)
	}
}

func TestRedirect_gives_LSMTPDs_own_files_a_destination(t *testing.T) {
	for _, messageID := range []string{"", uuid.NewString()} {
		dir := spoolDir(t)
		id := ofLSMTPD(t, dir, messageID)
		s := opened(t, dir)
		indexedNow(s)
		if _, err := s.Try(t.Context(), id, nil); !errors.Is(err, ErrNoDestination) {
			t.Errorf("without one: %v", err)
		}
		if err := s.Redirect(t.Context(), id, Destination{strings.Repeat("x", 256), ""}); err == nil {
			t.Error("a destination that AMQP cannot carry was taken")
		}
		if st := s.Status(); st.NoDestination != 1 || st.Files != 0 || st.Octets != 0 {
			t.Errorf("status %+v", st)
		}
		if err := s.Redirect(t.Context(), id, Destination{"x", "k"}); err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.NoDestination != 0 || st.Files != 1 {
			t.Errorf("status %+v", st)
		}
		got := replayed(t, s, 1)[0]
		if got.id != id || got.exchange != "x" || !strings.Contains(got.payload, "Subject: old") || !strings.Contains(got.payload, id.String()) {
			t.Errorf("replayed %v", got)
		}
	}
}

func TestRedirect_that_fails_leaves_the_file_as_it_was(t *testing.T) {
	for _, named := range []bool{false, true} {
		for _, call := range []string{"open", "create", "write", "fsync", "replace"} {
			dir := spoolDir(t)
			s, d := openFaulty(t, dir, named, syscall.ENOSPC)
			indexedNow(s)
			m := putReady(t, s, mail.JSON, "x")
			d.breaks(call)
			if err := s.Redirect(t.Context(), m.ID, Destination{"elsewhere", ""}); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: error %v", call, err)
			}
			d.breaks("")
			if got := replayed(t, s, 1); got[0].id != m.ID || got[0].exchange != m.Exchange {
				t.Errorf("%s: replayed %v", call, got)
			}
			mustClose(t, s)
			if names := files(t, dir); len(names) > 0 {
				t.Errorf("%s: files %v", call, names)
			}
		}
	}
}

func TestTry_publishes_one_file_now_and_keeps_to_its_verdict(t *testing.T) {
	s := opened(t, spoolDir(t))
	indexedNow(s)
	d := putReady(t, s, mail.JSON, "x")
	for _, verdict := range []Verdict{Later, Returned, Stop, Returned, Done} {
		got, err := s.Try(t.Context(), d.ID, func(_ context.Context, got *mail.Delivery) (Verdict, error) {
			if got.ID != d.ID {
				t.Errorf("tried %s", got.ID)
			}
			if _, err := s.Try(t.Context(), d.ID, nil); !errors.Is(err, ErrBusy) {
				t.Errorf("while it is tried: %v", err)
			}
			return verdict, nil
		})
		if got != verdict || err != nil {
			t.Errorf("%v: verdict %v, error %v", verdict, got, err)
		}
	}
	if _, err := s.Try(t.Context(), d.ID, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it is delivered: %v", err)
	}
	if st := s.Status(); st.Files != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestBad_names_what_was_moved_and_why_and_replaces_nothing(t *testing.T) {
	dir := spoolDir(t)
	for round := range 3 { // the same name each time
		place(t, dir, []byte(strings.Repeat("#", round)))
		s := mustOpen(t, dir)
		indexedNow(s)
		if st := s.Status(); st.Unreadable != round+1 || st.Files != 0 {
			t.Errorf("round %d: status %+v", round, st)
		}
		mustClose(t, s)
	}
	if err := os.Remove(filepath.Join(dir, "bad", fileName(goldenDelivery(mail.JSON).ID)+".1.reason")); err != nil {
		t.Fatal(err)
	}
	s := opened(t, dir)
	var got []string
	for b, err := range s.Bad(t.Context()) {
		if err != nil || b.MovedAt.IsZero() != (b.Reason == "") {
			t.Errorf("%+v, %v", b, err)
		}
		got = append(got, strings.TrimPrefix(b.Name, fileName(goldenDelivery(mail.JSON).ID))+": "+b.Reason)
	}
	slices.Sort(got)
	if want := []string{".1: ", ".2: not written by lsmtpd", ": empty"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBad_that_cannot_be_made_leaves_the_files_where_they_are_and_stops_nobody(t *testing.T) {
	dir := spoolDir(t)
	place(t, dir, []byte("#"))
	if err := os.Symlink("/tmp", filepath.Join(dir, "bad")); err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	s, err := Open(Options{Dir: dir, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	good := putReady(t, s, mail.JSON, "good")
	if got := replayed(t, s, 1); got[0].id != good.ID {
		t.Errorf("replayed %v", got)
	}
	if st := s.Status(); st.Unreadable != 1 {
		t.Errorf("status %+v", st)
	}
	if _, err := os.Lstat(filepath.Join(dir, fileName(goldenDelivery(mail.JSON).ID))); err != nil || !strings.Contains(log.String(), "bad is not a directory") {
		t.Errorf("%v, log %s", err, log.String())
	}
}

func TestEntries_says_what_is_not_known_of_a_file_that_could_not_be_opened(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	m := putReady(t, s, mail.JSON, "x")
	mustClose(t, s)
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{directory: d, err: syscall.EACCES}
	f.breaks("open")
	s = start(Options{Dir: dir}, f)
	defer mustClose(t, s)
	all := map[uuid.UUID]Entry{}
	for e, err := range s.Entries(t.Context()) {
		if err == nil {
			t.Error("it was read")
		}
		all[e.ID] = e
	}
	if e := all[m.ID]; !e.NoHead || !e.NoEnvelope || e.Listener+e.Exchange+e.Sender != "" || e.Recipients != nil {
		t.Errorf("not readable: %+v", e)
	}
	f.breaks("")
	if got := entries(t, s); len(got) != 1 || got[0].NoHead || got[0].NoEnvelope || got[0].Listener != "inbound" || got[0].Exchange != "lsmtp" || got[0].Sender != "from@example.org" {
		t.Errorf("readable again: %+v", got)
	}
}
