package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lsmtpd/gateway/mail"

	"pgregory.net/rapid"
)

func TestPut_mail_comes_back_as_it_would_have_been_published(t *testing.T) {
	for _, format := range []string{mail.JSON, mail.Raw} {
		for name, octets := range map[string]string{
			"text":   "Subject: Grüße\r\n\r\n\x00\"\\<&>\r\n",
			"octets": "Subject: Gr\xfc\xdfe\r\n\r\n",
			"empty":  "",
			"large":  strings.Repeat("a line of text\r\n", 100_000),
		} {
			t.Run(format+" "+name, func(t *testing.T) {
				dir := spoolDir(t)
				s := mustOpen(t, dir)
				d := someDelivery(format, []byte(octets))
				mustPut(t, s, d)
				mustClose(t, s)

				s = opened(t, dir)
				got := replayed(t, s, 1)[0]
				want := see(d)
				if got.spooledAt.IsZero() {
					t.Error("replayed without the time of spooling")
				}
				want.spooledAt = got.spooledAt
				if got != want {
					t.Errorf("got  %v\nwant %v", got, want)
				}
			})
		}
	}
}

func TestPut_any_octets_come_back(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	rapid.Check(t, func(r *rapid.T) {
		d := someDelivery(rapid.SampledFrom([]string{mail.JSON, mail.Raw}).Draw(r, "format"), rapid.SliceOf(rapid.Byte()).Draw(r, "mail"))
		d.RoutingKey = rapid.StringN(0, 60, 255).Draw(r, "key")
		d.Headers = rapid.MapOfN(rapid.StringN(1, 20, 255), rapid.String(), 0, 3).Draw(r, "headers")
		if err := s.Put(d); err != nil {
			r.Fatal(err)
		}
		back, err := s.load(t.Context(), d.ID, 0)
		if err != nil {
			r.Fatal(err)
		}
		defer back.Content.Release()
		got, want := see(back), see(d)
		if want.spooledAt = got.spooledAt; got != want {
			r.Fatalf("got  %v\nwant %v", got, want)
		}
		s.Settle(d.ID, true)
	})
}

func TestPut_writes_one_file_that_only_its_owner_reads(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	d := someDelivery(mail.JSON, []byte("x\r\n"))
	mustPut(t, s, d)
	if names := files(t, dir); len(names) != 1 || names[0] != d.ID.String()+".json" {
		t.Errorf("files %v", names)
	}
	info, err := os.Stat(filepath.Join(dir, fileName(d.ID)))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestPut_of_one_delivery_twice_is_refused(t *testing.T) {
	s := opened(t, spoolDir(t))
	d := someDelivery(mail.JSON, []byte("x"))
	mustPut(t, s, d)
	if err := s.Put(d); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("error %v", err)
	}
}

func TestPut_refuses_what_no_replay_could_publish(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	key := someDelivery(mail.JSON, []byte("x"))
	key.RoutingKey = strings.Repeat("k", 256)
	headers := someDelivery(mail.JSON, []byte("x"))
	headers.Headers = map[string]string{"a": strings.Repeat(`"`, 40_000)}
	for want, d := range map[string]*mail.Delivery{"routing key of 256": key, "a file's head takes": headers} {
		if err := s.Put(d); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrFull) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("files %v", names)
	}
	if st := s.Status(); st.Files != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestPut_after_Close_is_refused(t *testing.T) {
	s := mustOpen(t, spoolDir(t))
	mustClose(t, s)
	if err := s.Put(someDelivery(mail.JSON, []byte("x"))); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestSettle_confirmed_removes_the_file_and_nothing_else_does(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	confirmed, kept, undecided := someDelivery(mail.JSON, nil), someDelivery(mail.JSON, nil), someDelivery(mail.JSON, nil)
	for _, d := range []*mail.Delivery{confirmed, kept, undecided} {
		mustPut(t, s, d)
	}
	s.Settle(confirmed.ID, true)
	s.Settle(confirmed.ID, false)
	s.Settle(kept.ID, false)
	if st := s.Status(); st.Files != 2 || st.Held != 1 {
		t.Errorf("status %+v", st)
	}
	mustClose(t, s) // removes what waits to be removed
	names := strings.Join(files(t, dir), " ")
	if strings.Contains(names, confirmed.ID.String()) || !strings.Contains(names, kept.ID.String()) || !strings.Contains(names, undecided.ID.String()) {
		t.Errorf("files %v", names)
	}
}

func TestSettle_confirmed_after_it_was_freed_removes_the_file(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	d := putReady(t, s, mail.JSON, "x")
	s.Settle(d.ID, true)
	mustClose(t, s)
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("files %v", names)
	}
}

func TestStatus_counts_what_waits_for_the_broker(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	indexedNow(s)
	if st := s.Status(); st.Files != 0 || st.Octets != 0 || !st.Oldest.IsZero() || st.Indexing {
		t.Errorf("status of an empty spool %+v", st)
	}
	first := putReady(t, s, mail.JSON, "one")
	oldest := s.Status().Oldest
	putReady(t, s, mail.Raw, "two")
	var octets int64
	for _, name := range files(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		octets += info.Size()
	}
	st := s.Status()
	if st.Files != 2 || st.Octets != octets || !st.Oldest.Equal(oldest) || st.Dir != dir {
		t.Errorf("status %+v, want 2 files of %d octets since %v", st, octets, oldest)
	}
	s.Settle(first.ID, true)
	if st := s.Status(); st.Files != 1 || st.Octets >= octets || !st.Oldest.After(oldest) {
		t.Errorf("status %+v", st)
	}
}

func TestFile_is_JSON_whose_keys_are_those_of_the_payload(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	d := someDelivery(mail.JSON, []byte("x\r\n"))
	mustPut(t, s, d)
	octets, err := os.ReadFile(filepath.Join(dir, fileName(d.ID)))
	if err != nil {
		t.Fatal(err)
	}
	payload := d.AppendPayload(nil)
	if !bytes.HasPrefix(octets, []byte(`{"delivery":{`)) || !bytes.HasSuffix(octets, append([]byte(","), payload[1:]...)) {
		t.Errorf("file %s\npayload %s", octets, payload)
	}
}
