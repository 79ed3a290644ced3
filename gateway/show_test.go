package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

func TestA_mail_is_held_in_memory_until_its_reader_has_done(t *testing.T) {
	d := newDesk(t, amqptest.Start(t), 1)
	err := d.Show(t.Context(), d.ids[0], func(m *SpooledMail) error {
		if held := d.g.memory.Used(); held < int64(cap(m.Content)) || string(m.Content) != "x\r\n" {
			t.Errorf("%d octets are held for %d of %q", held, cap(m.Content), m.Content)
		}
		return errStopping
	})
	if held := d.g.memory.Used(); held != 0 || err != errStopping {
		t.Errorf("afterwards %d octets are held: %v", held, err)
	}
}

func TestA_mail_for_which_there_is_no_memory_is_asked_for_again_later(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := OpenSpooled(filepath.Join(t.TempDir(), "spool"), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		d := &desk{Spooled: o, t: t}
		d.fill(1)
		live, err := o.g.memory.Share(0).Hold(t.Context(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := o.Mail(t.Context(), d.ids[0]); !errors.Is(err, ErrCrowded) || time.Since(begun) < showPatience {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		time.AfterFunc(showPatience/2, live.Release)
		if m, err := o.Mail(t.Context(), d.ids[0]); err != nil || m.ID != d.ids[0] {
			t.Errorf("when there is some: %v, %v", m, err)
		}
	})
}

func TestNo_more_than_a_few_read_spooled_mail_at_once(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := OpenSpooled(filepath.Join(t.TempDir(), "spool"), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		d := &desk{Spooled: o, t: t}
		d.fill(1)
		leave, under := make(chan struct{}), 0
		ended := make(chan error, shownAtOnce)
		for range shownAtOnce {
			go func() {
				ended <- o.Show(t.Context(), d.ids[0], func(*SpooledMail) error { <-leave; return nil })
			}()
		}
		synctest.Wait()
		one := func(*SpooledMail) error { under++; return nil }
		if err := o.Show(t.Context(), d.ids[0], one); !errors.Is(err, ErrCrowded) || under > 0 {
			t.Errorf("one more: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.Show(gone, d.ids[0], one); !errors.Is(err, context.Canceled) {
			t.Errorf("one that has gone away: %v", err)
		}
		close(leave)
		for range shownAtOnce {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := o.Show(t.Context(), d.ids[0], one); err != nil || under != 1 {
			t.Errorf("when they have done: %v", err)
		}
	})
}

func TestA_mail_is_written_in_pieces_of_the_JSON_that_it_is(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, shownPiece - 1, shownPiece, shownPiece + 1, 2*shownPiece + 2} {
		m := &SpooledMail{
			Entry: spool.Entry{ID: uuid.New()}, Helo: "<&>", Headers: map[string]string{"x": `content":""}`},
			Content: bytes.Repeat([]byte{0xff}, n),
		}
		var got bytes.Buffer
		written, pieces := 0, 0
		err := m.WriteJSON(&got, func() error {
			pieces++
			if n := got.Len() - written; n > shownPiece*4/3+1<<10 {
				t.Errorf("%d octets at once", n)
			}
			written = got.Len()
			return nil
		})
		want, _ := json.Marshal(m)
		if err != nil || got.String() != string(want)+"\n" || pieces < 1+n/shownPiece {
			t.Errorf("%d octets of content are not what json.Marshal writes, in %d pieces, %v", n, pieces, err)
		}
		enough := errors.New("enough")
		if err := m.WriteJSON(&got, func() error { return enough }); err != enough {
			t.Errorf("it went on: %v", err)
		}
	}
}
