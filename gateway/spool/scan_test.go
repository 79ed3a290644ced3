package spool

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

func TestScan_of_many_unreadable_files_names_some_and_counts_the_rest(t *testing.T) {
	dir := spoolDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range maxReasons + 5 {
		if err := os.WriteFile(filepath.Join(dir, fileName(uuid.New())), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log logtest.Buffer
	s, err := Open(Options{Dir: dir, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	indexedNow(s)
	if n := strings.Count(log.String(), "error="); n != maxReasons || !strings.Contains(log.String(), "files=5") {
		t.Errorf("%d files are named, want %d and the number of the rest:\n%s", n, maxReasons, log.String())
	}
	if st := s.Status(); st.Unreadable != maxReasons+5 {
		t.Errorf("status %+v", st)
	}
}

// unlisted is a directory that cannot be read.
type unlisted struct{ directory }

func (unlisted) list(func(string, bool) bool) error { return syscall.EIO }

func TestScan_that_fails_is_shown_and_new_mail_is_still_taken(t *testing.T) {
	dir := spoolDir(t)
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	s := start(Options{Dir: dir, Log: log.Logger()}, unlisted{d})
	defer mustClose(t, s)
	indexedNow(s)
	if st := s.Status(); st.LastError == "" || !strings.Contains(log.String(), "cannot be read: mail in it is not replayed") {
		t.Errorf("status %+v, log %s", st, log.String())
	}
	putReady(t, s, mail.JSON, "x")
	replayed(t, s, 1)
}

func TestScan_reads_heads_longer_than_its_first_look(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	d := someDelivery(mail.JSON, []byte("x"))
	d.Headers = map[string]string{"long": strings.Repeat("x", 3*firstLook)}
	mustPut(t, s, d)
	mustClose(t, s)
	s = opened(t, dir)
	indexedNow(s)
	if st := s.Status(); st.Files != 1 || st.Oldest.IsZero() {
		t.Errorf("status %+v", st)
	}
	if got := replayed(t, s, 1); got[0].id != d.ID {
		t.Errorf("replayed %v", got)
	}
}

func TestA_file_that_is_put_back_is_found_by_the_next_list_and_replayed(t *testing.T) {
	dir, aside := spoolDir(t), t.TempDir()
	s := opened(t, dir)
	d, stays := putReady(t, s, mail.JSON, "put back"), putReady(t, s, mail.JSON, "stays")
	name := fileName(d.ID)
	if err := os.Link(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(d.ID); err != nil {
		t.Fatal(err)
	}
	listed := func() (ids []uuid.UUID) {
		for e, err := range s.Entries(t.Context()) {
			if err != nil {
				t.Error(err)
			}
			ids = append(ids, e.ID)
		}
		return ids
	}
	if ids := listed(); len(ids) != 1 || ids[0] != stays.ID {
		t.Fatalf("listed %v", ids)
	}
	if err := os.Rename(filepath.Join(aside, name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	if ids := listed(); len(ids) != 2 || ids[0] != d.ID || ids[1] != stays.ID {
		t.Fatalf("listed %v", ids)
	}
	if got := replayed(t, s, 2); got[0].id != d.ID {
		t.Errorf("replayed %v", got)
	}
	if ids := listed(); len(ids) != 0 {
		t.Errorf("listed %v", ids)
	}
}

func TestScan_counts_what_is_not_the_spools_and_tells_of_it_once(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	d := putReady(t, s, mail.JSON, "x")
	if err := s.Remember([]string{"/elsewhere"}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	for _, name := range []string{"foo.json", "notes.txt", strings.ToUpper(uuid.NewString()) + suffix, ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, badDirectory), 0o700); err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	s, err := Open(Options{Dir: dir, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	indexedNow(s)
	if st := s.Status(); st.Ignored != 3 || st.Files != 1 {
		t.Errorf("status %+v", st)
	}
	if err := os.Remove(filepath.Join(dir, "foo.json")); err != nil {
		t.Fatal(err)
	}
	for e, err := range s.Entries(t.Context()) {
		if err != nil || e.ID != d.ID {
			t.Errorf("listed %v, %v", e, err)
		}
	}
	if st := s.Status(); st.Ignored != 2 {
		t.Errorf("status %+v", st)
	}
	if text := log.String(); strings.Count(text, "are ignored") != 1 || !strings.Contains(text, "files=3") {
		t.Error(text)
	}
}
