package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes"
	"lsmtpd/routes/address"

	"pgregory.net/rapid"
)

// However recipients are spread over destinations, and those over deliveries, each is answered by his own delivery.
func TestLMTP_answers_each_recipient_by_his_own_delivery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var mine transaction
		var want []string
		for i := range rapid.IntRange(1, 50).Draw(t, "recipients") {
			to := address.Address{Local: fmt.Sprint(i % 40), Domain: "example"} // some are there twice
			d := routes.Destination{Exchange: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "exchange")}
			var at int
			mine.batches, at = routes.Group(mine.batches, d, to)
			mine.taken = append(mine.taken, taken{batch: at})
			want = append(want, d.Exchange+" "+to.String())
		}
		var deliveries []*mail.Delivery
		var replies []smtp.Reply
		for _, b := range mine.batches {
			for rest := b.Recipients; len(rest) > 0; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "fit")
				deliveries = append(deliveries, &mail.Delivery{Exchange: b.Exchange, Recipients: rest[:n]})
				replies = append(replies, smtp.Reply{Code: 200 + len(replies)})
				rest = rest[n:]
			}
		}
		answered := map[int][]string{} // by the code of the reply
		for i, r := range mine.perRecipient(deliveries, replies) {
			answered[r.Code] = append(answered[r.Code], want[i])
		}
		for i, d := range deliveries {
			var own []string
			for _, to := range d.Recipients {
				own = append(own, d.Exchange+" "+to.String())
			}
			if got := answered[replies[i].Code]; !slices.Equal(got, own) {
				t.Fatalf("delivery %d is that of %q, and answers %q", i, own, got)
			}
		}
	})
}

func TestWhat_was_asked_of_notifications_goes_with_each_recipient(t *testing.T) {
	h := newHouse(t, entry("a", port(t), "format: raw", `routing_key: "{recipient.domain}"`))
	r := h.running.Load()
	l := r.listeners[r.table.Listeners[0].Address]
	s := &session{gateway: h.Gateway, listener: l}
	mine := s.newTransaction(r, l, &smtp.Client{}, address.Address{}, smtp.MailParams{Ret: "FULL", EnvID: "id"})
	for i, domain := range []string{"one.example", "two.example", "one.example"} {
		p := smtp.RcptParams{Notify: fmt.Sprint(i), ORcpt: fmt.Sprintf("rfc822;%d", i)}
		if reply := mine.Rcpt(context.Background(), address.Address{Local: "x", Domain: domain}, p); !reply.IsZero() {
			t.Fatal(reply)
		}
	}
	c := memory.NewContent([]byte("x\r\n"), 0, nil)
	defer c.Release()
	deliveries, reply := mine.deliveries(c)
	if !reply.IsZero() || len(deliveries) != 2 {
		t.Fatal(reply, len(deliveries))
	}
	for i, want := range [][]mail.DSN{{{Notify: "0", ORcpt: "rfc822;0"}, {Notify: "2", ORcpt: "rfc822;2"}}, {{Notify: "1", ORcpt: "rfc822;1"}}} {
		d := deliveries[i]
		if !slices.Equal(d.DSN, want) || d.Envelope.Ret != "FULL" || d.Envelope.EnvID != "id" {
			t.Errorf("delivery %d: %q of %+v", i, d.DSN, d.Envelope)
		}
	}
}

func TestFor_want_of_memory_the_client_is_asked_to_come_back(t *testing.T) {
	exhausted := publish.Result{Outcome: gone, Err: fmt.Errorf("encode: %w", memory.ErrExhausted)}
	for _, c := range []struct {
		name    string
		results []publish.Result
		code    int
	}{
		{"alone", []publish.Result{exhausted}, 452},
		{"beside one that would be spooled", []publish.Result{{Outcome: nack}, exhausted}, 452},
		{"beside one that is bounced", []publish.Result{{Outcome: back}, exhausted}, 452},
		{"beside one that is confirmed", []publish.Result{{Outcome: ok}, exhausted}, 0},
	} {
		if _, reply := decide(policies{"spool", "reject"}, c.results); reply.Code != c.code {
			t.Errorf("%s: %d, want %d", c.name, reply.Code, c.code)
		}
	}
}

func TestLMTP_has_a_reply_for_each_recipient_and_one_line_for_each_delivery(t *testing.T) {
	address := port(t)
	h := newHouse(t, entry("a", address))
	table := h.table(h.config(entry("a", address, `routing_key: "{recipient.domain}"`, "max_recipients: 100")))
	table.Listeners[0].Protocol = "lmtp"
	h.must(h.Apply(context.Background(), table))
	c, greeting := dial(t, address, "127.0.0.1")
	if !strings.Contains(greeting, "LMTP") {
		t.Fatalf("greeting %q", greeting)
	}
	for _, line := range []string{
		"LHLO client.example", "MAIL FROM:<a@example.com>", "RCPT TO:<x@one.example>", "RCPT TO:<x@two.example>", "RCPT TO:<y@one.example>",
		"DATA", "Subject: x\r\n\r\nx\r\n.",
	} {
		if reply, err := c.Exchange(line); err != nil || reply.Code() >= 400 {
			t.Fatal(line, reply, err)
		}
	}
	for range 2 {
		if reply, err := c.Receive(); err != nil || reply.Code() != 250 {
			t.Fatal(reply, err)
		}
	}
	status := h.Status().Listeners[0]
	if status.Accepted != 1 || status.Spooled != 2 {
		t.Errorf("%d mails, %d deliveries spooled", status.Accepted, status.Spooled)
	}
}
