package gateway

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/spool"
)

func TestWhat_an_operator_removes_is_gone_and_what_was_gone_is_told(t *testing.T) {
	d := newDesk(t, amqptest.Start(t), 100)
	got := told{}
	if err := d.Remove(t.Context(), append(d.ids[1:], uuid.New()), got.each); err != nil || got[Removed] != 99 || got[Gone] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if left := d.left(); len(left) != 1 || left[0].ID != d.ids[0] {
		t.Errorf("left: %v", left)
	}
	enough := errors.New("enough")
	if err := d.Remove(t.Context(), d.ids, func(Outcome) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestMail_that_is_being_published_is_removed_when_that_is_over_or_left_after_a_while(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := OpenSpooled(filepath.Join(t.TempDir(), "spool"), 0)
		if err != nil {
			t.Fatal(err)
		}
		d := &desk{Spooled: o, t: t}
		d.fill(2)
		s := d.g.store.spools[0]
		for range 2 { // which nobody decides on yet
			m := delivery()
			if err := s.Put(m); err != nil {
				t.Fatal(err)
			}
			m.Content.Release()
			d.ids = append(d.ids, m.ID)
		}
		time.AfterFunc(busyPatience/2, func() { s.Settle(d.ids[2], false) })
		begun, got := time.Now(), told{}
		if err := d.Remove(t.Context(), d.ids, got.each); err != nil || got[Removed] != 3 || got[Busy] != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if took := time.Since(begun); took < busyPatience*3/2 { // from the last one that was decided
			t.Errorf("it was awaited for %v", took)
		}
		stopped, stop := context.WithCancel(t.Context())
		time.AfterFunc(busyPatience/2, stop)
		if err := d.Remove(stopped, d.ids[3:], got.each); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped: %v", err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestA_mail_is_read_as_it_was_taken(t *testing.T) {
	d := newDesk(t, amqptest.Start(t), 1)
	m, err := d.Mail(t.Context(), d.ids[0])
	if err != nil || string(m.Content) != "x\r\n" || m.ID != d.ids[0] || m.MailID != d.ids[0] || m.Listener != "in" || len(m.Recipients) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := d.Mail(t.Context(), uuid.New()); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestAn_operator_reaches_the_mail_of_a_spool_that_is_not_in_use_any_more(t *testing.T) {
	d := newDesk(t, amqptest.Start(t), 3)
	dir := filepath.Join(t.TempDir(), "spool")
	inUse, err := spool.Open(spool.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	d.g.store.spools = append([]*directory{{Spool: inUse, path: dir}}, d.g.store.spools...)
	d.fill(2)
	left := d.left()
	if len(left) != 5 || left[0].ID != d.ids[0] || left[4].ID != d.ids[4] {
		t.Errorf("%d listed: %v", len(left), left)
	}
	for _, id := range d.ids {
		if m, err := d.Mail(t.Context(), id); err != nil || m.ID != id {
			t.Errorf("%s is read as %s, %v", id, m.ID, err)
		}
	}
	got := told{}
	if err := d.Remove(t.Context(), []uuid.UUID{d.ids[0], d.ids[4]}, got.each); err != nil || got[Removed] != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if err := d.Replay(t.Context(), d.ids, nil, got.each); err != nil || got[Delivered] != 3 || got[Gone] != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMail_whose_file_cannot_be_read_is_listed_and_meant_by_no_filter_on_what_is_not_known(t *testing.T) {
	o, err := OpenSpooled(filepath.Join(t.TempDir(), "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	d := &desk{Spooled: o, t: t}
	d.fill(1)
	path := filepath.Join(o.g.store.spools[0].path, d.ids[0].String()+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-30], 0o600); err != nil {
		t.Fatal(err)
	}
	if left := d.left(); len(left) != 1 || !left[0].NoEnvelope || left[0].LastError == "" {
		t.Errorf("listed: %+v", left)
	}
	for _, query := range []url.Values{{"from": {"<>"}}, {"from": {"*"}}, {"recipient": {"*"}}} {
		f, err := ParseFilter(query)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range o.Entries(t.Context(), f) {
			t.Errorf("%v means %+v, %v", query, e, err)
		}
	}
}

func TestMail_behind_one_that_did_not_get_through_says_so(t *testing.T) {
	b := amqptest.Start(t)
	d := newDesk(t, b, 2)
	b.Script((*amqptest.Publish).Unroutable)
	got := told{}
	if err := d.Replay(t.Context(), d.ids[:1], nil, got.each); err != nil || got[Refused] != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if left := d.left(); len(left) != 2 || left[0].Waits != "" || !strings.Contains(left[1].Waits, "NO_ROUTE") || left[1].LastError != "" {
		t.Errorf("left: %+v", left)
	}
	b.Script((*amqptest.Publish).Ack)
	d.fill(1)
	if err := d.Replay(t.Context(), d.ids[1:2], nil, got.each); err != nil || got[Delivered] != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if left := d.left(); len(left) != 2 || left[1].Waits != "" {
		t.Errorf("left of a destination that takes mail: %+v", left)
	}
}
