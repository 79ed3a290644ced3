package spool

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

func TestRemove_goes_on_beside_those_who_settle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := spoolDir(t)
		s := mustOpen(t, dir)
		defer mustClose(t, s)
		const n = 3*removeAtOnce + 1
		var all []*mail.Delivery
		for range n {
			d := someDelivery(mail.JSON, nil)
			mustPut(t, s, d)
			all = append(all, d)
		}
		for _, d := range all {
			s.Settle(d.ID, true)
		}
		synctest.Wait()
		if names := files(t, dir); len(names) > 0 {
			t.Errorf("%d files are left", len(names))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.index.byID.n > 0 || s.index.removals != nil || s.index.count[removing] != 0 {
			t.Errorf("the index still knows %d files", s.index.byID.n)
		}
	})
}

func TestRemove_pauses_between_small_groups_while_somebody_writes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := spoolDir(t)
		s := mustOpen(t, dir)
		defer mustClose(t, s)
		const groups = 4
		var all []*mail.Delivery
		for range groups * removeAtOnce {
			d := someDelivery(mail.JSON, nil)
			mustPut(t, s, d)
			all = append(all, d)
		}
		_, turn, err := s.awaitTurn(uuid.New(), &head{}, 1) // somebody writes
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		for _, d := range all {
			s.settle(s.index.byID.get(d.ID), gone)
		}
		s.mu.Unlock()
		for left := groups - 1; left >= 0; left-- {
			synctest.Wait()
			if n := len(files(t, dir)); n != left*removeAtOnce {
				t.Errorf("%d files are left, want %d", n, left*removeAtOnce)
			}
			time.Sleep(removePause)
		}
		s.mu.Lock()
		s.endTurn(turn)
		s.mu.Unlock()
	})
}

func TestRemove_that_fails_is_tried_again_until_the_file_is_gone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := spoolDir(t)
		s, d := openFaulty(t, dir, false, syscall.EACCES)
		defer mustClose(t, s)
		indexedNow(s)
		var log logtest.Buffer
		s.log = log.Logger()
		d.breaks("remove")
		for range removeAtOnce + 1 {
			m := someDelivery(mail.JSON, nil)
			mustPut(t, s, m)
			s.Settle(m.ID, true)
		}
		time.Sleep(10 * maxRemoveRetry)
		if st := s.Status(); st.Unremoved != removeAtOnce+1 || st.Files != 0 || st.LastError == "" {
			t.Errorf("while it fails: %+v", st)
		}
		if n := strings.Count(log.String(), "cannot be removed"); n != 1 {
			t.Errorf("told %d times", n)
		}
		d.breaks("")
		time.Sleep(maxRemoveRetry)
		synctest.Wait()
		if names := files(t, dir); len(names) > 0 || s.Status().Unremoved != 0 || !strings.Contains(log.String(), "are gone") {
			t.Errorf("left: %d files, %+v", len(names), s.Status())
		}
	})
}
