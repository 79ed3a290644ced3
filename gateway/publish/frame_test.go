package publish

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/mail"
	"lsmtpd/routes/address"
)

// crowd is a delivery to a thousand recipients, whom one frame of 16 KiB has no room for.
func crowd(exchange, key string) *mail.Delivery {
	d := delivery(exchange, key)
	d.Recipients = nil
	for i := range 1000 {
		d.Recipients = append(d.Recipients, address.Address{Local: fmt.Sprintf("recipient%04d", i), Domain: "example.com"})
	}
	return d
}

func TestABrokerOfSmallFramesGetsNoHeaderTableThatIsTooLargeForThem(t *testing.T) {
	node := rabbit.New(t, rabbit.Options{Config: []string{"frame_max = 16384"}})
	inbox := rabbit.Queue(t, node.URL())
	p := start(t, settings(node.URL()), inbox.Name)
	verify(t, p, inbox.Name)
	before := p.live.current()
	for range 2 {
		r := submit(t.Context(), p, crowd(inbox.Name, inbox.Name)).want(t, Rejected)
		if !strings.Contains(r.Err.Error(), "that one frame of the broker takes") {
			t.Error(r.Err)
		}
	}
	d := crowd(inbox.Name, inbox.Name)
	d.Recipients = d.Recipients[:d.Fit(p.MaxTable())]
	if len(d.Recipients) < 300 {
		t.Errorf("%d recipients fit", len(d.Recipients))
	}
	submit(t.Context(), p, d).want(t, Confirmed)
	fullest := delivery(inbox.Name, inbox.Name)
	room := sort.Search(mail.MaxTable, func(n int) bool {
		fullest.Headers = map[string]string{"filler": strings.Repeat("x", n)}
		return fullest.Fit(p.MaxTable()) == 0
	}) - 1
	fullest.Headers["filler"] = strings.Repeat("x", room)
	submit(t.Context(), p, fullest).want(t, Confirmed)
	if p.live.current() != before {
		t.Error("the connection was closed")
	}
	rabbit.Drain(t, inbox, 2, faultPatience)
}

func TestWhatFitsInTheFramesOfOneBrokerIsMeasuredAgainWhereAnotherOneTookItsPlace(t *testing.T) {
	b := amqptest.Start(t)
	b.FrameMax(16384)
	p := start(t, settings(b.URL()), "x")
	verify(t, p, "x")
	if p.MaxTable() != mail.TableIn(16384) {
		t.Fatalf("MaxTable() = %d", p.MaxTable())
	}
	p.table.Store(mail.MaxTable) // as of the broker before
	submit(t.Context(), p, crowd("x", "k")).want(t, Rejected)
	submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	if n := len(b.Published()); n != 1 || b.Attempts() != 1 {
		t.Errorf("%d messages by %d connections", n, b.Attempts())
	}
}
