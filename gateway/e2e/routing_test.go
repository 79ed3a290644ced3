package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const letter = "Subject: hello\r\n\r\nHello.\r\n"

// tenants is a daemon of three listeners that have nothing in common.
type tenants struct {
	*daemon.Daemon
	a, b, c, billing *rabbit.Inbox
}

func TestThree_listeners_have_their_own_limits_exchanges_keys_and_formats(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	a, b, c, billing := rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url), rabbit.Queue(t, url)
	three := &tenants{start(t, url, config(
		listener("tenant-a", a.Name, `routing_key: "mail.{recipient.domain}"`, "size_limit: 2KiB", "headers: {tenant: a}"),
		listener("tenant-b", b.Name, "routing_key: inbox", "format: raw", "size_limit: 4KiB"),
		listener("tenant-c", c.Name, `routing_key: "{listener}.{recipient.local}"`, "size_limit: 8KiB", fmt.Sprintf(`routes: [
      {name: billing, match: {recipient: "*@billing.example", sender: "*@PARTNER.example"}, exchange: %q,
       routing_key: "invoice.{sender.domain}.{recipient.tag}", format: raw, headers: {priority: high, from: "{sender}"}},
      {match: {recipient: "old@retired.example"}, reject: "550 5.1.1 this address has moved"},
      {match: {recipient: "postmaster@*"}, routing_key: postmaster}]`, billing.Name)),
	)), a, b, c, billing}
	t.Run("each mail comes to its listener's exchange, by its key, in its format", three.haveTheirOwnFormats)
	t.Run("routes take what they match, and the first one wins", three.haveTheirOwnRoutes)
	t.Run("what is over a listener's limit is refused, and the session goes on", three.haveTheirOwnLimits)
	for _, q := range []*rabbit.Inbox{a, b, c, billing} {
		if n := rabbit.Depth(t, q); n != 0 {
			t.Errorf("%d messages too many in %s", n, q.Name)
		}
	}
}

func (d *tenants) haveTheirOwnFormats(t *testing.T) {
	id := deliver(t, d.Addr(t, "tenant-a"), "ann@client.example", "bob@Example.COM")
	got := rabbit.Drain(t, d.a, 1, patience)[0]
	wantMessage(t, got, message{key: "mail.example.com", contentType: "application/json", id: id, headers: amqp.Table{"tenant": "a"}})
	p := wantPayload(t, got)
	if p.Listener != "tenant-a" || p.Sender != "ann@client.example" || !slices.Equal(p.Recipients, []string{"bob@example.com"}) ||
		p.Helo != "client.example" || p.ClientIP != "127.0.0.1" || p.MailID != id || p.Size != int64(len(p.EmailContent)) || p.Timestamp.IsZero() {
		t.Errorf("payload %+v", p)
	}
	wantLetter(t, got)

	id = deliver(t, d.Addr(t, "tenant-b"), "", "bob@example.com")
	got = rabbit.Drain(t, d.b, 1, patience)[0]
	wantMessage(t, got, message{key: "inbox", contentType: "message/rfc822", id: id, headers: amqp.Table{
		"lsmtpd-mail-id": id, "lsmtpd-listener": "tenant-b", "lsmtpd-sender": "", "lsmtpd-recipients": []any{"bob@example.com"},
		"lsmtpd-client-ip": "127.0.0.1", "lsmtpd-helo": "client.example", "lsmtpd-user": "", "lsmtpd-tls": "",
		"lsmtpd-size": int64(len(got.Body)), "lsmtpd-received-at": got.Headers["lsmtpd-received-at"]}})
	wantLetter(t, got)

	deliver(t, d.Addr(t, "tenant-c"), "ann@client.example", "bob@example.com")
	wantKey(t, d.c, "tenant-c.bob")
}

func (d *tenants) haveTheirOwnRoutes(t *testing.T) {
	addr := d.Addr(t, "tenant-c")
	deliver(t, addr, "eve@partner.example", "in+2026@billing.example")
	got := rabbit.Drain(t, d.billing, 1, patience)[0]
	if got.RoutingKey != "invoice.partner.example.2026" || got.ContentType != "message/rfc822" ||
		got.Headers["priority"] != "high" || got.Headers["from"] != "eve@partner.example" {
		t.Errorf("key %q, %s, headers %v", got.RoutingKey, got.ContentType, got.Headers)
	}
	deliver(t, addr, "eve@elsewhere.example", "in+2026@billing.example")
	wantKey(t, d.c, "tenant-c.in+2026")
	deliver(t, addr, "eve@partner.example", "PostMaster")
	wantKey(t, d.c, "postmaster")

	client := smtptest.Open(t, addr)
	if r := client.Do("MAIL FROM:<eve@partner.example>"); r.Code() != 250 {
		t.Fatal(r)
	}
	client.Send("RCPT TO:<Old@retired.example>\r\n")
	client.Want("550 5.1.1 this address has moved")
}

func (d *tenants) haveTheirOwnLimits(t *testing.T) {
	for _, l := range []struct {
		name  string
		limit int
		queue *rabbit.Inbox
	}{{"tenant-a", 2 << 10, d.a}, {"tenant-b", 4 << 10, d.b}, {"tenant-c", 8 << 10, d.c}} {
		c := smtptest.Open(t, d.Addr(t, l.name))
		if r := c.Do("EHLO again.example"); !strings.Contains(string(r), fmt.Sprintf("SIZE %d", l.limit)) {
			t.Errorf("%s offers %q", l.name, r)
		}
		c.Send(fmt.Sprintf("MAIL FROM:<ann@client.example> SIZE=%d\r\n", l.limit+1))
		c.Want("552 5.3.4 Message exceeds the size limit")
		body := strings.Repeat("a", l.limit-4) + "\r\n"
		if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "\r\n"+body+"x"); r != "552 5.3.4 Message exceeds the size limit" {
			t.Errorf("%s: an octet too many: %q", l.name, r)
		}
		if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "\r\n"+body); r.Code() != 250 {
			t.Errorf("%s: exactly the limit: %q", l.name, r)
		}
		got := rabbit.Drain(t, l.queue, 1, patience)[0]
		if mail, _ := mailOf(&got); !strings.HasSuffix(mail, "\r\n\r\n"+body) {
			t.Errorf("%s: another mail arrived: %.200q", l.name, mail)
		}
	}
}

func TestOne_mail_to_two_destinations_is_two_messages_of_one_mail(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	a, b := rabbit.Queue(t, url), rabbit.Queue(t, url)
	d := start(t, url, config(listener("in", a.Name, fmt.Sprintf(`routes: [{match: {recipient: b.example}, exchange: %q}]`, b.Name))))
	id := deliver(t, d.Addr(t, "in"), "ann@client.example", "one@a.example", "two@b.example", "three@a.example")

	first, second := rabbit.Drain(t, a, 1, patience)[0], rabbit.Drain(t, b, 1, patience)[0]
	if first.MessageId != id || second.MessageId == id || uuid.Validate(second.MessageId) != nil {
		t.Errorf("message-ids %q and %q of mail %s", first.MessageId, second.MessageId, id)
	}
	p, q := wantPayload(t, first), wantPayload(t, second)
	if p.MailID != id || q.MailID != id {
		t.Errorf("mail ids %q and %q, want %q", p.MailID, q.MailID, id)
	}
	if !slices.Equal(p.Recipients, []string{"one@a.example", "three@a.example"}) || !slices.Equal(q.Recipients, []string{"two@b.example"}) {
		t.Errorf("recipients %q and %q", p.Recipients, q.Recipients)
	}
	if p.EmailContent != q.EmailContent {
		t.Errorf("one mail, two contents: %q and %q", p.EmailContent, q.EmailContent)
	}
}

func TestRecipients_that_do_not_fit_in_one_message_travel_in_several_of_one_mail(t *testing.T) {
	t.Parallel()
	severalMessages(t, rabbit.Shared(t), 2)
}

func TestA_broker_of_small_frames_gets_more_messages_of_one_mail(t *testing.T) {
	t.Parallel()
	severalMessages(t, rabbit.New(t, rabbit.Options{Config: []string{"frame_max = 16384"}}), 1000*144>>14)
}

// severalMessages sends a mail to 1000 recipients of 144 octets each, in a header table, which are least messages or more.
func severalMessages(t *testing.T, node *rabbit.Node, least int) {
	q := rabbit.Queue(t, node.URL())
	d := start(t, node.URL(), config(listener("in", q.Name, "format: raw")))
	d.Await(t, "the broker is there", 0, says("broker connected"))
	var to []string
	for i := range 1000 {
		to = append(to, fmt.Sprintf("%04d-%s@%s.example", i, strings.Repeat("local", 10), strings.Repeat("domain", 10)))
	}
	id := deliver(t, d.Addr(t, "in"), "ann@client.example", to...)
	var arrived []string
	ids := map[string]bool{}
	for len(arrived) < len(to) {
		m := rabbit.Drain(t, q, 1, patience)[0]
		for _, r := range m.Headers["lsmtpd-recipients"].([]any) {
			arrived = append(arrived, r.(string))
		}
		ids[m.MessageId] = true
		if m.Headers["lsmtpd-mail-id"] != id {
			t.Errorf("message of mail %v, want %s", m.Headers["lsmtpd-mail-id"], id)
		}
	}
	if slices.Sort(arrived); !slices.Equal(arrived, to) {
		t.Errorf("%d recipients arrived of %d", len(arrived), len(to))
	}
	if len(ids) < least || !ids[id] || rabbit.Depth(t, q) != 0 {
		t.Errorf("messages %v of mail %s, and %d more", ids, id, rabbit.Depth(t, q))
	}
	if spool := readSpool(t, d); len(spool) > 0 {
		t.Errorf("in the spool: %q", spool)
	}
}

func TestA_mail_of_ten_mebibytes_arrives_octet_for_octet(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := start(t, url, config(listener("text", q.Name), listener("raw", q.Name, "format: raw")))
	line := strings.Repeat("0123456789abcdef", 4) + "\r\n"
	content := "Subject: large\r\n\r\n" + strings.Repeat(line, 10<<20/len(line)-1)
	for _, name := range []string{"text", "raw"} {
		if r := smtptest.Open(t, d.Addr(t, name)).SendMail("", []string{"bob@example.com"}, content); r.Code() != 250 {
			t.Fatalf("%s: %q", name, r)
		}
		got := rabbit.Drain(t, q, 1, patience)[0]
		mail, err := mailOf(&got)
		if arrived, ok := withoutReceived(mail); err != nil || !ok || arrived != content {
			t.Errorf("%s: %d octets arrived of %d, %v", name, len(arrived), len(content), err)
		}
	}
}

func TestA_client_that_goes_away_after_the_final_dot_does_not_cancel_its_mail(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	d := start(t, url, config(listener("in", q.Name)))
	proxy.Freeze() // it goes while the broker is waited for
	c := smtptest.Open(t, d.Addr(t, "in"))
	for _, line := range []string{"MAIL FROM:<ann@client.example>", "RCPT TO:<bob@example.com>", "DATA"} {
		c.Do(line)
	}
	c.Send(letter + ".\r\n")
	must(t, c.Close())
	proxy.Thaw()
	wantLetter(t, rabbit.Drain(t, q, 1, patience)[0])
	if n := len(spooled(t, d)); n != 0 {
		t.Errorf("%d files in the spool", n)
	}
}

// deliver sends letter, which must be accepted, and returns its id.
func deliver(t testing.TB, addr, from string, to ...string) (id string) {
	t.Helper()
	r := smtptest.Open(t, addr).SendMail(from, to, letter)
	if r.Code() != 250 {
		t.Fatalf("the mail to %q is answered %q", to, r)
	}
	if uuid.Validate(queuedAs(r)) != nil {
		t.Fatalf("no id in %q", r)
	}
	return queuedAs(r)
}

// message is what the properties of one shall be.
type message struct {
	key, contentType, id string
	headers              amqp.Table
}

func wantMessage(t *testing.T, d amqp.Delivery, want message) {
	t.Helper()
	if trace, _ := d.Headers["traceparent"].(string); !strings.HasPrefix(trace, "00-") {
		t.Errorf("traceparent %q", trace)
	}
	delete(d.Headers, "traceparent")
	got := message{d.RoutingKey, d.ContentType, d.MessageId, d.Headers}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("message  %v\nwant     %v", got, want)
	}
	if d.DeliveryMode != amqp.Persistent || d.AppId != "lsmtpd" || d.Type != "lsmtpd.mail.v1" || d.Timestamp.IsZero() {
		t.Errorf("delivery mode %d, app-id %q, type %q, timestamp %v", d.DeliveryMode, d.AppId, d.Type, d.Timestamp)
	}
}

func wantPayload(t *testing.T, d amqp.Delivery) (p payload) {
	t.Helper()
	if err := json.Unmarshal(d.Body, &p); err != nil {
		t.Fatalf("%v in %s", err, d.Body)
	}
	return p
}

// wantLetter fails t unless d is letter behind a Received field.
func wantLetter(t *testing.T, d amqp.Delivery) {
	t.Helper()
	mail, err := mailOf(&d)
	if content, ok := withoutReceived(mail); err != nil || !ok || content != letter {
		t.Errorf("mail %q, %v", mail, err)
	}
}

func wantKey(t *testing.T, q *rabbit.Inbox, key string) {
	t.Helper()
	if got := rabbit.Drain(t, q, 1, patience)[0]; got.RoutingKey != key {
		t.Errorf("routing key %q, want %q", got.RoutingKey, key)
	}
}
