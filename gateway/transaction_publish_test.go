package gateway

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/smtptest"
)

// newLMTP is a house with an LMTP listener, whose keys are the recipients' domains, and the double for a broker.
func newLMTP(t *testing.T, double *amqptest.Broker, confirmTimeout time.Duration) (h *house, address string) {
	t.Helper()
	address = port(t)
	h = newHouse(t, entry("a", port(t)))
	config := h.config(entry("a", address, `routing_key: "{recipient.domain}"`, "format: raw", "on_broker_failure: defer", "protocol: lmtp", "size_limit: 20MB"))
	table := h.table(strings.Replace(config, quote(nowhere), quote(double.URL()), 1))
	table.Config.AMQP.ConfirmTimeout = confirmTimeout
	h.must(h.Apply(context.Background(), table))
	return h, address
}

// deliver sends a mail to two recipients, and returns the codes of their replies.
func deliver(t *testing.T, c *smtptest.Client, domains [2]string, body string) (codes [2]int) {
	t.Helper()
	for _, line := range []string{
		"MAIL FROM:<a@example.com>", "RCPT TO:<x@" + domains[0] + ">", "RCPT TO:<x@" + domains[1] + ">", "DATA",
	} {
		if reply, err := c.Exchange(line); err != nil || reply.Code() >= 400 {
			t.Fatal(line, reply, err)
		}
	}
	reply, err := c.Exchange("Subject: x\r\n\r\n" + body + ".")
	for i := range codes {
		if i > 0 {
			reply, err = c.Receive()
		}
		if err != nil {
			t.Fatal(err)
		}
		codes[i] = reply.Code()
	}
	return codes
}

func TestA_delivery_that_the_broker_confirmed_counts_though_another_of_the_mail_is_not_confirmed_in_time(t *testing.T) {
	double := amqptest.Start(t)
	double.Script(func(p *amqptest.Publish) {
		if !strings.HasPrefix(p.RoutingKey, "mute") {
			p.Ack()
		}
	})
	h, address := newLMTP(t, double, 2*time.Second)
	c, _ := dial(t, address, "127.0.0.1")
	if reply, err := c.Exchange("LHLO client.example"); err != nil || reply.Code() != 250 {
		t.Fatal(reply, err)
	}
	if got := deliver(t, c, [2]string{"mute.example", "good.example"}, "x\r\n"); got != [2]int{451, 250} {
		t.Errorf("replies %v", got)
	}
	if l := h.Status().Listeners[0]; l.Confirmed != 1 || l.Spooled != 0 {
		t.Errorf("%d confirmed, %d spooled", l.Confirmed, l.Spooled)
	}
}

func TestNo_delivery_of_a_large_mail_waits_for_the_confirm_of_another(t *testing.T) {
	double := amqptest.Start(t)
	var first *amqptest.Publish
	double.Script(func(p *amqptest.Publish) {
		if first == nil {
			first = p
			return
		}
		first.Ack()
		p.Ack()
	})
	_, address := newLMTP(t, double, 30*time.Second)
	c, _ := dial(t, address, "127.0.0.1")
	if reply, err := c.Exchange("LHLO client.example"); err != nil || reply.Code() != 250 {
		t.Fatal(reply, err)
	}
	body := strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", encodedAhead/72)
	if got := deliver(t, c, [2]string{"one.example", "two.example"}, body); got != [2]int{250, 250} {
		t.Errorf("replies %v", got)
	}
}

func TestWho_watches_is_told_of_a_mail_that_is_confirmed_after_it_was_spooled(t *testing.T) {
	double := amqptest.Start(t)
	double.Script(func(*amqptest.Publish) {})
	address := port(t)
	h := newHouse(t, entry("a", port(t)))
	table := h.table(strings.Replace(h.config(entry("a", address)), quote(nowhere), quote(double.URL()), 1))
	table.Config.AMQP.ConfirmTimeout = 100 * time.Millisecond
	h.must(h.Apply(context.Background(), table))
	copies, begun := make(chan Copy, 10), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := h.Watch(ctx, func() error { close(begun); return nil }, func(c Copy) error { copies <- c; return nil }); err != nil {
			t.Error(err)
		}
	})
	defer func() { stop(); watching.Wait() }()
	<-begun
	c := smtptest.Open(t, address)
	if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
		t.Fatal(r)
	}
	if n := h.Status().Listeners[0].Spooled; n != 1 {
		t.Fatalf("%d spooled", n)
	}
	late := double.AwaitPublished(1)[0]
	late.Ack()
	eventually(t, "the watcher is told", func() bool { return len(copies) > 0 })
	if got := <-copies; got.MessageID != late.MessageId {
		t.Errorf("told of %s, confirmed is %s", got.MessageID, late.MessageId)
	}
}
