// Package bench holds lsmtpd against other projects' Go code, which the product's own module need not know. It tests the real
// binary with a real RabbitMQ.
package bench

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"

	"github.com/emersion/go-smtp"
)

func TestMain(m *testing.M) { rabbit.Main(m) }

const config = `
hostname: mx.example.org
admin: {socket: "{{.Dir}}/a"}
amqp: {urls: ["{{.AMQP}}"]}
spool: {dir: "{{.Dir}}/spool"}
listeners:
  - {name: in, address: "{{addr "in"}}", exchange: "", routing_key: QUEUE, format: raw}
  - {name: lmtp, address: "{{addr "lmtp"}}", exchange: "", routing_key: QUEUE, format: raw, protocol: lmtp}
`

func TestInterop_the_client_of_emersion_go_smtp(t *testing.T) {
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := daemon.Start(t, daemon.Options{Config: strings.ReplaceAll(config, "QUEUE", q.Name), AMQP: url})
	mail := "Subject: x\r\n\r\n..\r\n" + strings.Repeat("привет\r\n", 1000)
	c, err := smtp.Dial(d.Addr(t, "in"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*smtp.MailOptions{
		nil,
		{Size: int64(len(mail)), Body: smtp.Body8BitMIME, UTF8: true, Return: smtp.DSNReturnHeaders, EnvelopeID: "QQ314159"},
	} {
		to := []string{"bob@example.com", "eve@example.com"}
		if err := c.Mail("ann@client.example", o); err != nil {
			t.Fatal(err)
		}
		for _, r := range to {
			var p *smtp.RcptOptions
			if o != nil {
				p = &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifySuccess, smtp.DSNNotifyFailure}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: r}
			}
			if err := c.Rcpt(r, p); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(t, c, mail).Close(); err != nil {
			t.Fatal(err)
		}
		got := rabbit.Drain(t, q, 1, time.Minute)[0]
		if _, content, _ := bytes.Cut(got.Body, []byte("Subject:")); "Subject:"+string(content) != mail {
			t.Errorf("the mail has the sum %x, and not that of what was sent", sha256.Sum256(got.Body))
		}
		if o == nil {
			continue
		}
		headers, err := json.Marshal(got.Headers)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"lsmtpd-dsn-ret":"HDRS"`, `"lsmtpd-dsn-envid":"QQ314159"`, `"lsmtpd-dsn-notify":["SUCCESS,FAILURE","SUCCESS,FAILURE"]`, `"lsmtpd-dsn-orcpt":["RFC822;bob@example.com","RFC822;eve@example.com"]`} {
			if !bytes.Contains(headers, []byte(want)) {
				t.Errorf("headers %s lack %s", headers, want)
			}
		}
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
}

func TestInterop_the_LMTP_client_of_emersion_go_smtp(t *testing.T) {
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := daemon.Start(t, daemon.Options{Config: strings.ReplaceAll(config, "QUEUE", q.Name), AMQP: url})
	conn, err := net.Dial("tcp", d.Addr(t, "lmtp"))
	if err != nil {
		t.Fatal(err)
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Mail("ann@client.example", nil); err != nil {
		t.Fatal(err)
	}
	to := []string{"bob@example.com", "eve@example.com"}
	for _, r := range to {
		if err := c.Rcpt(r, nil); err != nil {
			t.Fatal(err)
		}
	}
	w := send(t, c, "Subject: x\r\n\r\nhello\r\n")
	replies, err := w.CloseWithLMTPResponse()
	if err != nil || len(replies) != len(to) {
		t.Errorf("%d replies for %q: %v", len(replies), to, err)
	}
	rabbit.Drain(t, q, 1, time.Minute)
}

// send writes a mail and leaves its end to the caller.
func send(t *testing.T, c *smtp.Client, mail string) *smtp.DataCommand {
	t.Helper()
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(mail)); err != nil {
		t.Fatal(err)
	}
	return w
}
