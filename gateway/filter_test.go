package gateway

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

func TestA_filter_means_mail_of_which_everything_holds(t *testing.T) {
	now := time.Now()
	e := spool.Entry{
		ID: uuid.MustParse("3f2a91c0-a317-44f7-97a3-0aaa5be372e3"), SpooledAt: now.Add(-time.Hour), Listener: "in",
		Sender: "Ann@example.com", Recipients: []string{"bob@b.example", "eve@sub.c.example"}, Exchange: "x", Attempts: 1,
	}
	null, stray, fresh, unread, never := e, e, e, e, e
	null.Sender = ""
	stray.NoDestination, stray.Exchange = true, ""
	fresh.Attempts = 0
	waits, old := fresh, e
	old.SpooledAt = now.Add(-24 * time.Hour)
	waits.Waits = "exchange \"x\": NOT_FOUND"
	unread.NoEnvelope, unread.Sender, unread.Recipients = true, "", nil
	never.NoHead, never.Listener, never.Exchange = true, "", ""
	tests := []struct {
		query string
		entry spool.Entry
		want  bool
	}{
		{"", e, true},
		{"id=3f2a", e, true},
		{"id=3F2A", e, true},
		{"id=3f2a91c0-a317-44f7-97a3-0aaa5be372e3", e, true},
		{"id=aaaa&id=3f2a", e, true},
		{"id=f2a9", e, false},
		{"listener=in", e, true},
		{"listener=i", e, false},
		{"exchange=x", e, true},
		{"exchange=", e, false},
		{"exchange=", stray, false},
		{"from=ann@example.com", e, true},
		{"from=example.com", e, true},
		{"from=<>", e, false},
		{"from=<>", null, true},
		{"from=<>", unread, false},
		{"from=*", unread, false},
		{"recipient=*", unread, false},
		{"listener=in&exchange=x", unread, true},
		{"exchange=", never, false},
		{"listener=in", never, false},
		{"from=example.com", never, true},
		{"recipient=*@b.example", e, true},
		{"recipient=.c.example", e, true},
		{"recipient=c.example", e, false},
		{"older=1h", e, true},
		{"older=61m", e, false},
		{"older=0d1h", e, true},
		{"older=1d", e, false},
		{"older=1d", old, true},
		{"older=1d1h", old, false},
		{"failed=true", e, true},
		{"failed=true", fresh, false},
		{"failed=true", waits, true},
		{"listener=in&exchange=x&from=example.com&recipient=eve@*&older=30m&failed=true", e, true},
		{"listener=in&exchange=x&from=example.com&recipient=eve@*&older=2h&failed=true", e, false},
	}
	for _, test := range tests {
		v, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(v)
		if err != nil {
			t.Errorf("%s: %v", test.query, err)
			continue
		}
		if got := f.Match(&test.entry, now); got != test.want {
			t.Errorf("%s: %v, want %v", test.query, got, test.want)
		}
		again, err := ParseFilter(f.Values()) // as it travels to the daemon
		if err != nil || again.Match(&test.entry, now) != test.want {
			t.Errorf("%s, after its journey: %v", test.query, err)
		}
	}
}

func TestWhat_a_filter_does_not_know_never_means_all_mail(t *testing.T) {
	for query, want := range map[string]string{
		"listner=in":            "listner: ",
		"listener=":             "no listener has an empty name",
		"listener=a&listener=b": "given 2 times",
		"id=":                   "is no id",
		"id=xyz":                "is no id",
		"from=":                 "from: ",
		"recipient=a b":         "is not an address",
		"older=":                "older: ",
		"older=-1s":             "in the future",
		"older=d":               "older: ",
		"older=1dx":             "older: ",
		"older=-1d":             "older: ",
		"older=99999d":          "older: ",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := ParseFilter(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %v, %v", query, f, err)
		}
	}
}
