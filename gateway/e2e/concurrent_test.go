package e2e

import (
	"testing"

	"lsmtpd/gateway/internal/rabbit"
)

func TestA_hundred_sessions_of_fifty_mails_each_arrive_once_octet_for_octet(t *testing.T) {
	t.Parallel()
	crowd(t, 100, 50)
}

// crowd sends mails from so many sessions to a JSON listener and as many to a raw one.
func crowd(t *testing.T, sessions, mails int) {
	url := rabbit.Shared(t).URL()
	asJSON, raw := rabbit.Queue(t, url), rabbit.Queue(t, url)
	d := start(t, url, config(
		listener("json", asJSON.Name),
		listener("raw", raw.Name, "format: raw"),
	))
	l := newLedger()
	l.begin(t, load{
		targets:  []target{{d.Addr(t, "json"), asJSON}, {d.Addr(t, "raw"), raw}},
		sessions: sessions,
		mails:    mails,
	}).wait()
	if n := l.count(); n != sessions*mails {
		t.Errorf("%d mails accepted of %d", n, sessions*mails)
	}
	if duplicates := l.reckon(t, d, asJSON, raw); duplicates > 0 {
		t.Errorf("%d mails arrived more than once, though nothing failed", duplicates)
	}
	if files := said(d, "accepted"); len(files) != sessions*mails {
		t.Errorf("%d lines in the log for %d mails", len(files), sessions*mails)
	}
}
