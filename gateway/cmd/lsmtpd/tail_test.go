package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// watching is a "lsmtpd tail" under way.
type watching struct {
	stops  chan os.Signal
	stdout *bufio.Reader
	once   sync.Once

	// written until ended is closed
	stderr bytes.Buffer
	status int
	ended  chan struct{}
}

// end waits for the end and returns the exit status.
func (w *watching) end() int {
	<-w.ended
	return w.status
}

// interrupt is Ctrl-C. A second one would end the test's own process.
func (w *watching) interrupt() { w.once.Do(func() { w.stops <- os.Interrupt }) }

// watch starts "lsmtpd tail" and waits until its queue is bound.
func watch(t *testing.T, args ...string) *watching {
	t.Helper()
	outRead, outWrite := io.Pipe()
	errRead, errWrite := io.Pipe()
	w := &watching{stops: make(chan os.Signal, 1), stdout: bufio.NewReader(outRead), ended: make(chan struct{})}
	p := &program{stdin: strings.NewReader(""), stdout: outWrite, stderr: errWrite, stops: w.stops}
	var running sync.WaitGroup
	running.Go(func() {
		w.status = p.dispatch(append([]string{"tail"}, args...))
		outWrite.Close()
		errWrite.Close()
	})
	bound := make(chan struct{}, 1)
	running.Go(func() {
		for lines := bufio.NewScanner(errRead); lines.Scan(); {
			fmt.Fprintln(&w.stderr, lines.Text())
			if strings.HasPrefix(lines.Text(), "Warning: ") {
				bound <- struct{}{}
			}
		}
	})
	go func() {
		running.Wait()
		close(w.ended)
	}()
	t.Cleanup(func() {
		w.interrupt()
		outRead.Close() // a tail that is printing must not wait for us
		<-w.ended
	})
	select {
	case <-bound:
	case <-w.ended:
		t.Fatalf("tail ended with %d: %s", w.status, &w.stderr)
	}
	return w
}

// line is the next line of stdout.
func (w *watching) line(t *testing.T) string {
	t.Helper()
	line, err := w.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("stdout ended: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// refused runs a "lsmtpd tail" that must end by itself, and returns its exit status and its stderr.
func refused(args ...string) (status int, stderr string) {
	var out, err bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &err}
	status = p.dispatch(append([]string{"tail"}, args...))
	return status, out.String() + err.String()
}

// exchanges declares and publishes for a test.
type exchanges struct {
	t  *testing.T
	ch *amqp.Channel
}

func openExchanges(t *testing.T, url string) *exchanges {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return &exchanges{t, ch}
}

// declare makes an exchange of that kind and returns its name.
func (e *exchanges) declare(kind string) string {
	e.t.Helper()
	name := "tail-" + kind + "-" + uuid.NewString()
	if err := e.ch.ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = e.ch.ExchangeDelete(name, false, false) })
	return name
}

func (e *exchanges) publish(exchange, key string, m amqp.Publishing) {
	e.t.Helper()
	if err := e.ch.PublishWithContext(context.Background(), exchange, key, false, false, m); err != nil {
		e.t.Fatal(err)
	}
}

// jsonMail is a message as lsmtpd publishes it with format: json.
var jsonMail = amqp.Publishing{
	MessageId: "cf4c844f-a317-44f7-97a3-0aaa5be372e3", ContentType: "application/json", Type: "lsmtpd.mail.v1",
	Headers: amqp.Table{"tenant": "a"},
	Body: []byte(`{"timestamp":"2025-09-23T23:18:51.477629045+00:00","message_id":"cf4c844f-a317-44f7-97a3-0aaa5be372e3",` +
		`"client_address":"client.example.com","recipients":["bob@example.net","eve@example.org"],` +
		`"email_content":"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nhello\r\n","sender":"ann@example.com",` +
		`"mail_id":"cf4c844f-a317-44f7-97a3-0aaa5be372e3","listener":"inbound","client_ip":"192.0.2.1","user":"","tls":"","size":48}`),
}

// rawMail is one with format: raw.
var rawMail = amqp.Publishing{
	MessageId: "0a0a0a0a-a317-44f7-97a3-0aaa5be372e3", ContentType: "message/rfc822", Type: "lsmtpd.mail.v1",
	Headers: amqp.Table{
		"lsmtpd-mail-id": "cf4c844f-a317-44f7-97a3-0aaa5be372e3", "lsmtpd-listener": "inbound", "lsmtpd-sender": "",
		"lsmtpd-recipients": []any{"bob@example.net"}, "lsmtpd-client-ip": "192.0.2.1", "lsmtpd-helo": "client.example.com",
		"lsmtpd-user": "app", "lsmtpd-tls": "", "lsmtpd-received-at": "2025-09-23T23:18:51.477629045+00:00", "lsmtpd-size": int64(22),
	},
	Body: []byte("Subject: raw\r\n\r\n\xff\x00\x1b\r\n"),
}

// TestTail is one test, so that a node that was started for it ends with it.
func TestTail(t *testing.T) {
	var node *rabbit.Node
	if os.Getenv(rabbit.URLVariable) != "" {
		node = rabbit.Shared(t)
	} else {
		node = rabbit.New(t, rabbit.Options{})
	}
	url := node.URL()
	for name, test := range map[string]func(t *testing.T, url string){
		"prints a block for each mail of either format": tailBlocks,
		"prints JSON": tailJSON,
		"prints the mails themselves and stops after the number asked for":           tailRaw,
		"ends with 0 when it is interrupted":                                         tailInterrupted,
		"needs no key on an exchange of any kind but direct":                         tailKinds,
		"leaves no queue and no exchange behind":                                     tailLeavesNothing,
		"says which exchange is missing":                                             tailMissing,
		"ends with 1 when the connection is lost":                                    tailCut,
		"ends with 0 when it is interrupted though the broker says nothing any more": tailFrozen,
		"takes the broker from the configuration":                                    tailConfigured,
		"tells no secret": tailSecrets,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, url)
		})
	}
}

func tailBlocks(t *testing.T, url string) {
	e := openExchanges(t, url)
	exchange := e.declare("topic")
	w := watch(t, "--bind", exchange, "--url", url)
	e.publish(exchange, "mail.example.net", jsonMail)
	e.publish(exchange, "raw", rawMail)
	e.publish(exchange, "x", amqp.Publishing{ContentType: "text/plain", Body: []byte("\x1b[2J")})
	at, err := time.Parse(time.RFC3339, "2025-09-23T23:18:51Z")
	if err != nil {
		t.Fatal(err)
	}
	local := at.Local().Format(time.DateTime)
	want := []string{
		local + "  cf4c844f-a317-44f7-97a3-0aaa5be372e3",
		"  exchange    " + exchange,
		"  key         mail.example.net",
		"  listener    inbound",
		"  sender      ann@example.com",
		"  recipients  bob@example.net, eve@example.org",
		"  size        48 octets",
		"  subject     Grüße",
		"",
		local + "  0a0a0a0a-a317-44f7-97a3-0aaa5be372e3",
		"  mail        cf4c844f-a317-44f7-97a3-0aaa5be372e3",
		"  exchange    " + exchange,
		"  key         raw",
		"  listener    inbound",
		"  sender      <>",
		"  recipients  bob@example.net",
		"  size        22 octets",
		"  subject     raw",
		"",
		"(no time)  (no message id)",
		"  exchange    " + exchange,
		"  key         x",
		"  size        4 octets",
		"  type        text/plain",
		"  note        not in the form of lsmtpd's messages",
		"",
	}
	for _, line := range want {
		if got := w.line(t); got != line {
			t.Errorf("%q, want %q", got, line)
		}
	}
}

func tailJSON(t *testing.T, url string) {
	e := openExchanges(t, url)
	exchange := e.declare("topic")
	w := watch(t, "--bind", exchange, "--url", url, "--json")
	e.publish(exchange, "mail.example.net", jsonMail)
	var got map[string]any
	if err := json.Unmarshal([]byte(w.line(t)), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"id": jsonMail.MessageId, "exchange": exchange, "routing_key": "mail.example.net", "sender": "ann@example.com",
		"recipients": []any{"bob@example.net", "eve@example.org"}, "subject": "Grüße", "size": 48.0, "headers": map[string]any{"tenant": "a"},
		"time": "2025-09-23T23:18:51.477629045+00:00", "helo": "client.example.com",
	} {
		if fmt.Sprint(got[key]) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
}

func tailRaw(t *testing.T, url string) {
	e := openExchanges(t, url)
	exchange := e.declare("topic")
	w := watch(t, "--bind", exchange, "--url", url, "--raw", "-n", "2")
	for range 3 {
		e.publish(exchange, "raw", rawMail)
	}
	got, err := io.ReadAll(w.stdout)
	if err != nil || string(got) != strings.Repeat(string(rawMail.Body), 2) {
		t.Errorf("%q, %v", got, err)
	}
	if status := w.end(); status != exitDone {
		t.Errorf("exit status %d", status)
	}
}

func tailInterrupted(t *testing.T, url string) {
	exchange := openExchanges(t, url).declare("topic")
	w := watch(t, "--bind", exchange, "--url", url)
	w.interrupt()
	if got, err := io.ReadAll(w.stdout); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	if status := w.end(); status != exitDone {
		t.Errorf("exit status %d", status)
	}
}

func tailKinds(t *testing.T, url string) {
	e := openExchanges(t, url)
	for _, kind := range []string{"fanout", "headers", "topic"} {
		exchange := e.declare(kind)
		w := watch(t, "--bind", exchange, "--url", url, "-n", "1", "--raw")
		e.publish(exchange, "some.key", rawMail)
		if got, err := io.ReadAll(w.stdout); err != nil || !bytes.Equal(got, rawMail.Body) {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	direct := e.declare("direct")
	for _, exchange := range []string{direct, "amq.direct"} {
		status, text := refused("--bind", exchange, "--url", url)
		if status != exitFailed || !strings.Contains(text, "--key says which to watch") {
			t.Errorf("%s: exit status %d, %q", exchange, status, text)
		}
	}
	w := watch(t, "--bind", direct, "--url", url, "--key", "here", "-n", "1", "--raw")
	e.publish(direct, "there", jsonMail)
	e.publish(direct, "here", rawMail)
	if got, err := io.ReadAll(w.stdout); err != nil || !bytes.Equal(got, rawMail.Body) {
		t.Errorf("direct: %q, %v", got, err)
	}
}

func tailLeavesNothing(t *testing.T, url string) {
	e := openExchanges(t, url)
	exchange := e.declare("topic")
	w := watch(t, "--bind", exchange, "--url", url, "-n", "1", "--raw")
	e.publish(exchange, "x", rawMail)
	if _, err := io.ReadAll(w.stdout); err != nil {
		t.Fatal(err)
	}
	w.end()
	// Nothing is bound any more: a mandatory message comes back.
	returns := e.ch.NotifyReturn(make(chan amqp.Return, 1))
	if err := e.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirm, err := e.ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, "x", true, false, amqp.Publishing{})
	if err != nil {
		t.Fatal(err)
	}
	confirm.Wait()
	if r := <-returns; r.ReplyCode != amqp.NoRoute {
		t.Errorf("%d %s", r.ReplyCode, r.ReplyText)
	}
}

func tailMissing(t *testing.T, url string) {
	status, text := refused("--bind", "no-such\x1bexchange", "--url", url)
	if status != exitFailed || !strings.Contains(text, `there is no exchange "no-such\x1bexchange"`) || strings.Count(text, "\n") != 1 {
		t.Errorf("exit status %d, %q", status, text)
	}
}

// newProxy is a network between tail and the broker at url.
func newProxy(t *testing.T, url string) (proxy *faultnet.Proxy, proxied string) {
	t.Helper()
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err = faultnet.NewProxy(fmt.Sprintf("%s:%d", uri.Host, uri.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return proxy, "amqp://guest:guest@" + proxy.Addr() + "/"
}

func tailCut(t *testing.T, url string) {
	proxy, proxied := newProxy(t, url)
	exchange := openExchanges(t, url).declare("topic")
	w := watch(t, "--bind", exchange, "--url", proxied)
	proxy.Cut()
	if status := w.end(); status != exitFailed || !strings.Contains(w.stderr.String(), "the connection to the broker ended: ") {
		t.Errorf("exit status %d, %q", status, &w.stderr)
	}
}

func tailFrozen(t *testing.T, url string) {
	proxy, proxied := newProxy(t, url)
	exchange := openExchanges(t, url).declare("topic")
	w := watch(t, "--bind", exchange, "--url", proxied)
	proxy.Freeze()
	w.interrupt()
	if status := w.end(); status != exitDone {
		t.Errorf("exit status %d, %q", status, &w.stderr)
	}
}

func tailConfigured(t *testing.T, url string) {
	exchange := openExchanges(t, url).declare("topic")
	path := filepath.Join(t.TempDir(), "lsmtpd.yaml")
	text := fmt.Sprintf("amqp: {urls: [%q, %q]}\nspool: {dir: spool}\nlisteners: [{name: a, address: 127.0.0.1:2525, exchange: x}]\n",
		silent(t, "guest:guest"), url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := watch(t, "--bind", exchange, "-c", path)
	w.interrupt()
	if _, err := io.ReadAll(w.stdout); err != nil {
		t.Fatal(err)
	}
	if status := w.end(); status != exitDone {
		t.Errorf("exit status %d", status)
	}
}

// silent is the URL of a broker that is not there.
func silent(t *testing.T, credentials string) string {
	t.Helper()
	port, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("amqp://%s@127.0.0.1:%d/", credentials, port)
}

func tailSecrets(t *testing.T, url string) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, url, want string }{
		{"a wrong password", fmt.Sprintf("amqp://guest:hunter2@127.0.0.1:%d/", uri.Port), "refuses the user or the password"},
		{"a missing virtual host", fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/hunter", uri.Port), "refuses the virtual host"},
		{"nobody there", silent(t, "guest:hunter2"), "connection refused"},
		{"a port that is none", "amqp://guest:hunter2@127.0.0.1:port/", "not an AMQP URL"},
		{"another scheme", "http://guest:hunter2@127.0.0.1/", "not an AMQP URL"},
		{"a percent sign that is none", "amqp://guest:hunter2%zz@127.0.0.1/", "not an AMQP URL"},
	}
	for _, test := range tests {
		status, text := refused("--bind", "amq.topic", "--url", test.url)
		if status != exitFailed || !strings.Contains(text, test.want) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: exit status %d, %q", test.name, status, text)
		}
	}
}
