package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/smtp"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

// send hands a mail to the daemon, which spools it: there is no broker.
func send(t *testing.T, configuration, to string) {
	t.Helper()
	text, err := os.ReadFile(configuration)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d{2,}`).FindAllString(string(text), -1)
	if err := smtp.SendMail(address[len(address)-1], nil, "ann@example.com", []string{to}, []byte("Subject: hello\r\n\r\n\x1b[2J\r\n")); err != nil {
		t.Fatal(err)
	}
}

// list are the ids of what v means.
func list(t *testing.T, c *Client, v url.Values) (ids []uuid.UUID) {
	t.Helper()
	f, err := gateway.ParseFilter(v)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Entries(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

func TestThe_client_works_with_the_spool_of_the_daemon(t *testing.T) {
	c, path, stop := serve(t)
	for i := range 3 {
		send(t, path, fmt.Sprintf("bob@%d.example", i))
	}
	all := list(t, c, url.Values{})
	some := list(t, c, url.Values{"recipient": {"1.example"}})
	if len(all) != 3 || len(some) != 1 || some[0] != all[1] {
		t.Fatalf("%v of %v", some, all)
	}
	m, err := c.Mail(t.Context(), some[0])
	if err != nil || m.ID != some[0] || m.Exchange != "x" || m.Sender != "ann@example.com" || !strings.HasSuffix(string(m.Content), "\r\n\r\n\x1b[2J\r\n") {
		t.Errorf("%+v, %v", m, err)
	}

	none := func(o gateway.Outcome) error { t.Errorf("told %v", o); return nil }
	if err := c.Replay(t.Context(), all, nil, none); err == nil || !strings.Contains(err.Error(), "the broker takes no mail: broker 127.0.0.1:1 ") {
		t.Errorf("a replay without a broker: %v", err)
	}
	var outcomes []gateway.Outcome
	tell := func(o gateway.Outcome) error { outcomes = append(outcomes, o); return nil }
	err = c.Replay(t.Context(), some, &gateway.Destination{Exchange: "", RoutingKey: "a b&c"}, tell)
	if err == nil || len(outcomes) != 2 || outcomes[0].Result != gateway.Moved || outcomes[1].Result != gateway.Untried || !outcomes[1].Moved {
		t.Errorf("a replay elsewhere without a broker: %v, %v", outcomes, err)
	}
	if m, err = c.Mail(t.Context(), some[0]); err != nil || m.Exchange != "" || m.RoutingKey != "a b&c" {
		t.Errorf("%+v, %v", m, err)
	}
	outcomes = nil
	err = c.Remove(t.Context(), []uuid.UUID{some[0], uuid.Max}, func(o gateway.Outcome) error { outcomes = append(outcomes, o); return nil })
	if err != nil || len(outcomes) != 2 || outcomes[0] != (gateway.Outcome{ID: some[0], Result: gateway.Removed}) || outcomes[1].Result != gateway.Gone {
		t.Errorf("%v, %v", outcomes, err)
	}
	if _, err := c.Mail(t.Context(), some[0]); !errors.Is(err, spool.ErrNotFound) || !strings.Contains(err.Error(), some[0].String()) {
		t.Errorf("what was removed: %v", err)
	}
	if left := list(t, c, url.Values{}); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	for e, err := range c.Bad(t.Context()) {
		t.Errorf("put aside: %v, %v", e, err)
	}
	stop()
	f, _ := gateway.ParseFilter(url.Values{})
	for _, err := range c.Entries(t.Context(), f) {
		if !errors.Is(err, ErrNobody) {
			t.Errorf("after the end: %v", err)
		}
	}
}

func TestA_replay_whose_client_goes_away_ends_what_it_has_begun(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Script((*amqptest.Publish).Unroutable)
	c, path, _ := serveAt(t, broker.URL())
	send(t, path, "bob@first.example")
	send(t, path, "bob@second.example")
	all := list(t, c, url.Values{})
	if len(all) != 2 {
		t.Fatalf("in the spool: %v", all)
	}
	under := make(chan *amqptest.Publish, 10)
	broker.Script(func(p *amqptest.Publish) { under <- p })
	body, err := c.open(t.Context(), request{method: http.MethodPost, path: pathSpoolReplay, body: writeIDs(all)})
	if err != nil {
		t.Fatal(err)
	}
	first := <-under
	body.Close()
	first.Ack()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) { // between two looks at the condition
		left := list(t, c, url.Values{})
		if len(left) == 1 && left[0].String() != first.MessageId {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
	}
}

func TestA_replay_that_is_stopped_tells_what_became_of_all(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Script((*amqptest.Publish).Unroutable)
	c, path, _ := serveAt(t, broker.URL())
	send(t, path, "bob@first.example")
	send(t, path, "bob@second.example")
	all := list(t, c, url.Values{})
	if len(all) != 2 {
		t.Fatalf("in the spool: %v", all)
	}
	under, stopped := make(chan struct{}, 10), make(chan struct{})
	broker.Script(func(p *amqptest.Publish) {
		under <- struct{}{}
		go func() { <-stopped; p.Ack() }()
	})
	ctx, stop := context.WithCancel(t.Context())
	told := map[gateway.Result]int{}
	ended := make(chan error, 1)
	go func() {
		ended <- c.Replay(ctx, all, &gateway.Destination{RoutingKey: "a-queue"}, func(o gateway.Outcome) error { told[o.Result]++; return nil })
	}()
	<-under // by the operator's replay, or the daemon's own
	stop()
	close(stopped)
	if err := <-ended; !errors.Is(err, context.Canceled) && (err != nil || told[gateway.Delivered] != 2) { // it may have ended before
		t.Errorf("the end: %v", err)
	}
	if told[gateway.Moved] != 2 || told[gateway.Delivered]+told[gateway.Untried] != 2 || told[gateway.Delivered] == 0 {
		t.Errorf("told %v", told)
	}
}

func TestWhat_the_spool_is_asked_wrongly_is_refused_with_the_reason(t *testing.T) {
	c, _, _ := serve(t)
	for want, r := range map[string]request{
		"listner: nothing is known of it": {method: http.MethodGet, path: pathSpool, query: url.Values{"listner": {"in"}}},
		"400 Bad Request: invalid UUID":   {method: http.MethodGet, path: pathSpoolMail + "3f2a"},
		"400 Bad Request: ":               {method: http.MethodPost, path: pathSpoolRemove, body: strings.NewReader("all of it\n")},
		"405 Method Not Allowed":          {method: http.MethodGet, path: pathSpoolRemove},
		"404 Not Found: nothing of that":  {method: http.MethodPost, path: pathSpoolStop + "x"},
	} {
		if body, err := c.open(t.Context(), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %s: %v, %v", r.method, r.path, body, err)
		}
	}
}

func TestA_socket_that_this_user_may_not_use_is_not_taken_for_a_daemon_that_is_away(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may use every socket")
	}
	c, _, _ := serve(t)
	if err := os.Chmod(c.Socket, 0); err != nil {
		t.Fatal(err)
	}
	_, err := c.Status(t.Context())
	if err == nil || errors.Is(err, ErrNobody) || !strings.Contains(err.Error(), "may not use its socket "+filepath.Clean(c.Socket)) {
		t.Error(err)
	}
}

// pipes is a listener that accepts what is sent into it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, open := <-p; open {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func TestWho_does_not_read_the_mail_he_asked_for_is_cut_off(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shown := make(chan error, 1)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			shown <- show(w, &gateway.SpooledMail{Content: make([]byte, 1<<20)})
		})}
		l := make(pipes, 1)
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		client, conn := net.Pipe()
		l <- conn
		if _, err := client.Write([]byte("GET / HTTP/1.1\r\nHost: lsmtpd\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(showPause - time.Second)
		synctest.Wait()
		if len(shown) > 0 {
			t.Fatalf("it ended early: %v", <-shown)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(shown) == 0 {
			t.Error("its memory is still held")
		} else if err := <-shown; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v", err)
		}
		client.Close()
		server.Close()
		<-ended
	})
}
