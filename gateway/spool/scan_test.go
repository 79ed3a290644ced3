package spool

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	var log lines
	s, err := Open(Options{Dir: dir, Log: log.logger()})
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
	var log lines
	s := start(Options{Dir: dir, Log: log.logger()}, unlisted{d})
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
