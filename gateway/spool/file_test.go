package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func goldenDelivery(format string) *mail.Delivery {
	d := someDelivery(format, []byte("Subject: <x>\r\n\r\nGrüße\r\n"))
	d.ID = uuid.MustParse("cf4c844f-a317-44f7-97a3-0aaa5be372e3")
	d.Envelope.ID = d.ID
	d.Envelope.ReceivedAt = time.Date(2025, 9, 23, 23, 18, 51, 477629045, time.UTC)
	d.Envelope.ClientIP = netip.MustParseAddr("192.0.2.7")
	return d
}

func TestFile_has_the_form_that_later_versions_must_read(t *testing.T) {
	for _, format := range []string{mail.JSON, mail.Raw} {
		d := goldenDelivery(format)
		_, head, err := newHead(d, time.Date(2025, 9, 23, 23, 19, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		got := encoded(t, d, head)
		if !json.Valid(got) {
			t.Errorf("%s: not JSON: %s", format, got)
		}
		golden := filepath.Join("testdata", format+".json")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: file\n%s\nwant\n%s", format, got, want)
		}
	}
}

// encoded returns what encode writes of d.
func encoded(t *testing.T, d *mail.Delivery, head []byte) []byte {
	t.Helper()
	f := &diskFile{disk: newDisk(1), inode: &inode{}}
	size := int64(len(head)) + d.JSONSize()
	if err := encode(f, d, head, size); err != nil {
		t.Fatal(err)
	}
	if n := int64(len(f.octets)); n != size {
		t.Errorf("%d octets, want %d", n, size)
	}
	return f.octets
}

func TestFile_written_in_pieces_is_read_back_octet_for_octet(t *testing.T) {
	s := opened(t, spoolDir(t))
	for _, format := range []string{mail.JSON, mail.Raw} {
		for _, unit := range []string{"text\r\n", "\x00\xff\x80"} {
			for _, octets := range []int{piece - 1000, piece, 5*piece + 1} {
				d := putReady(t, s, format, strings.Repeat(unit, octets/len(unit)))
				want := see(d)
				if got := replayed(t, s, 1)[0]; got.payload != want.payload || got.id != want.id {
					t.Errorf("%s of %d octets like %q came back another", format, octets, unit)
				}
			}
		}
	}
}

// place puts a file of the golden delivery into dir, with its octets changed.
func place(t *testing.T, dir string, octets []byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName(goldenDelivery(mail.JSON).ID)), octets, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFile_damaged_is_named_in_the_log_once_moved_to_bad_and_stops_nobody(t *testing.T) {
	golden, err := os.ReadFile("testdata/raw.json")
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(golden, []byte(old)) {
			t.Fatalf("%q is not in the golden file", old)
		}
		return bytes.Replace(golden, []byte(old), []byte(new), 1)
	}
	for name, c := range map[string]struct {
		octets []byte
		want   string
	}{
		"empty":                        {nil, "unreadable: empty"},
		"truncated in its head":        {golden[:100], "unreadable: truncated in its head"},
		"truncated behind its head":    {golden[:bytes.Index(golden, []byte(`,"timestamp"`))], "unreadable: truncated behind its head"},
		"truncated in the mail":        {golden[:len(golden)-40], "unreadable: truncated: unexpected end of JSON"},
		"truncated at once":            {golden[:5], "unreadable: truncated in its head"},
		"truncated within a letter":    {append(slices.Clone(golden[:len(golden)-40]), 0xc3), "unreadable: truncated: payload is not UTF-8"},
		"changed in the mail":          {replace("Subject", "Object_"), "unreadable: checksum"},
		"changed checksum":             {replace(`"checksum":"`, `"checksum":"x`), "unreadable: checksum"},
		"another id":                   {replace("cf4c844f", "0f4c844f"), "name and its message_id differ"},
		"foreign":                      {[]byte("#!/bin/sh\n"), "not written by lsmtpd"},
		"foreign JSON":                 {[]byte(`{"a":1}`), "not written by lsmtpd"},
		"of a later version":           {replace(`"listener":`, `"priority":1,"listener":`), `unknown field`},
		"of an unknown format":         {replace(`"format":"raw"`, `"format":"xml"`), "not one of this version"},
		"with a key too long":          {replace(`"routing_key":"`, `"routing_key":"`+strings.Repeat("k", 256)), "routing key of 274 octets"},
		"with a head over 64 KiB":      {replace(`"tenant":"`, `"tenant":"`+strings.Repeat("x", maxHead)), "does not end within 65536"},
		"without the rest":             {slices.Concat(golden[:bytes.Index(golden, []byte(`,"timestamp"`))], []byte("}")), "not one of this version"},
		"with octets that are no text": {replace("Subject", "\xff\xffbject"), "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := spoolDir(t)
			place(t, dir, c.octets)
			var log logtest.Buffer
			s, err := Open(Options{Dir: dir, Log: log.Logger()})
			if err != nil {
				t.Fatal(err)
			}
			good := putReady(t, s, mail.JSON, "good")
			if got := replayed(t, s, 1); got[0].id != good.ID {
				t.Errorf("replayed %+v", got)
			}
			if st := s.Status(); st.Unreadable != 1 || st.Files != 0 {
				t.Errorf("status %+v", st)
			}
			mustClose(t, s)
			if n := strings.Count(log.String(), "cannot be read"); n != 1 || !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), c.want) {
				t.Errorf("log\n%swant it once with %q", log.String(), c.want)
			}
			name := fileName(goldenDelivery(mail.JSON).ID)
			if names := files(t, dir); !slices.Equal(names, []string{"bad"}) {
				t.Errorf("files %v, want only bad/", names)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "bad", name)); err != nil || !bytes.Equal(got, c.octets) {
				t.Errorf("in bad/ it is %q, %v", got, err)
			}
			note, err := os.ReadFile(filepath.Join(dir, "bad", name+".reason"))
			if err != nil || !strings.Contains(string(note), strings.TrimPrefix(c.want, "unreadable: ")) {
				t.Errorf("the reason beside it is %q, %v", note, err)
			}
		})
	}
}

func TestFile_with_white_space_behind_it_is_read_as_jq_and_editors_write_it(t *testing.T) {
	for _, format := range []string{mail.JSON, mail.Raw} {
		dir := spoolDir(t)
		s := mustOpen(t, dir)
		d := putReady(t, s, format, "by hand")
		mustClose(t, s)
		path := filepath.Join(dir, fileName(d.ID))
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(" \r\n\n"); err != nil {
			t.Fatal(err)
		}
		f.Close()
		s = mustOpen(t, dir)
		if got := replayed(t, s, 1); got[0].id != d.ID {
			t.Errorf("%s: replayed %+v", format, got)
		}
		mustClose(t, s)
	}
}

func TestFile_of_LSMTPD_stays_and_is_counted(t *testing.T) {
	dir := spoolDir(t)
	place(t, dir, []byte(" {\n \"sender\": \"a@b\", \"timestamp\": \"2025-09-23T23:18:51Z\"}"))
	s := opened(t, dir)
	indexedNow(s)
	if st := s.Status(); st.NoDestination != 1 || st.Unreadable != 0 || st.Files != 0 {
		t.Errorf("status %+v", st)
	}
	if len(files(t, dir)) != 1 {
		t.Error("the file is gone")
	}
}

func TestFile_that_is_none_is_moved_and_other_names_are_left_alone(t *testing.T) {
	dir := spoolDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := func() string { return filepath.Join(dir, fileName(uuid.New())) }
	for _, err := range []error{
		os.Symlink("/etc/passwd", name()),
		syscall.Mkfifo(name(), 0o600),
		os.Mkdir(name(), 0o700),
		os.WriteFile(filepath.Join(dir, "README"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, strings.ToUpper(fileName(uuid.New()))), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := opened(t, dir)
	indexedNow(s)
	if st := s.Status(); st.Unreadable != 3 || st.Files != 0 {
		t.Errorf("status %+v", st)
	}
	if names := files(t, dir); len(names) != 3 || !slices.Contains(names, "bad") || !slices.Contains(names, "README") {
		t.Errorf("files %v, want bad/ and the two whose names are not ours", names)
	}
	if names := files(t, filepath.Join(dir, "bad")); len(names) != 6 {
		t.Errorf("in bad/ %v, want three and their reasons", names)
	}
}

func TestFile_that_a_crash_left_without_its_name_is_cleared_away(t *testing.T) {
	dir := spoolDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	others := []string{".tmp", ".profile", "." + uuid.NewString(), uuid.NewString() + ".1.tmp"}
	for _, name := range append(others, "."+uuid.NewString()+".1.tmp") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := opened(t, dir)
	indexedNow(s)
	slices.Sort(others)
	if got := files(t, dir); !slices.Equal(got, others) {
		t.Errorf("files %v, want %v", got, others)
	}
}

func TestFile_being_written_is_not_taken_for_a_leftover(t *testing.T) {
	dir := spoolDir(t)
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.named = true
	f, err := d.create()
	if err != nil {
		t.Fatal(err)
	}
	s := start(Options{Dir: dir}, d) // reads the directory beside the writer
	defer mustClose(t, s)
	indexedNow(s)
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("files %v, want the one being written", names)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzHead(f *testing.F) {
	golden, err := os.ReadFile("testdata/json.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:200])
	f.Add([]byte(`{"delivery":{"a":"}\""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, partial, err := parseHead(b)
		if err != nil {
			if !errors.Is(err, errUnreadable) && !errors.Is(err, errNoDestination) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		if partial || b[payload] != ',' || !json.Valid(b[len(prefix):payload]) {
			t.Fatalf("head %+v ends at %d", h, payload)
		}
	})
}
