package publish

import (
	"context"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
)

func TestOnlyTheBrokersOwnWordMakesADestinationMissing(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()))
	b.Exchange("gone", amqptest.Missing)
	b.Exchange("locked", amqptest.Forbidden)
	b.Queue("gone", amqptest.Missing)
	b.Queue("locked", amqptest.Forbidden)
	for _, c := range []struct{ exchange, key, want string }{
		{"there", "k", ""},
		{"there", "gone", ""}, // a key, and no queue's name
		{"gone", "k", "NOT_FOUND - no exchange 'gone'"},
		{"locked", "k", ""},
		{"", "there", ""},
		{"", "gone", "NOT_FOUND - no queue 'gone'"},
		{"", "locked", ""},
	} {
		err := p.Missing(t.Context(), c.exchange, c.key)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("exchange %q, key %q: %v, want %q", c.exchange, c.key, err, c.want)
		}
	}
	must(t, p, delivery("there", "k"), Confirmed)

	b.Freeze()
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Missing(impatient, "gone", "k"); err != nil {
		t.Errorf("a silent broker says %v", err)
	}
	b.Thaw()
	b.Refuse(true)
	b.Reset()
	until(t, faultPatience, func() bool { return p.live.current() == nil })
	if err := p.Missing(t.Context(), "gone", "k"); err != nil {
		t.Errorf("no broker says %v", err)
	}
}
