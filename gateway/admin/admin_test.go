package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lsmtpd/gateway"
	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/routes/reload"
)

// serve runs a gateway without a broker and its Reloader until t ends, and returns a client and the configuration's path.
func serve(t *testing.T) (c *Client, path string, stop func()) {
	t.Helper()
	return serveAt(t, "amqp://127.0.0.1:1/")
}

// serveAt is serve with the broker at url.
func serveAt(t *testing.T, url string) (c *Client, path string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "lsmtpd.yaml")
	text := fmt.Sprintf("amqp: {urls: [%q]}\nspool: {dir: spool}\nadmin: {socket: s}\nlisteners: [{name: in, address: \"127.0.0.1:%d\", exchange: x}]\n", url, port)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	g := gateway.New(gateway.Options{Log: log, Version: "1.2.3"})
	r := &reload.Reloader{Path: path, Apply: g.Apply, Mend: g.Mend, Log: log}
	g.ServeAdmin(Handler(g, r))
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx, func(reload.Report) { close(ready) }); err != nil {
			t.Error(err)
		}
	})
	<-ready
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return &Client{Socket: filepath.Join(dir, "s")}, path, stop
}

func TestThe_client_gets_what_the_daemon_says(t *testing.T) {
	c, path, stop := serve(t)
	s, err := c.Status(t.Context())
	if err != nil || s.Version != "1.2.3" || len(s.Listeners) != 1 || s.Listeners[0].Name != "in" || s.Config.Path != path ||
		s.Config.Generation != 1 || s.Config.Reloads[reload.Start][reload.Applied] != 1 {
		t.Errorf("status %+v, %v", s, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "exchange: x", "exchange: y", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := c.Reload(t.Context())
	if err != nil || report.Result != reload.Applied || report.Trigger != reload.Command || report.Generation != 2 ||
		len(report.Changes) != 1 || report.Changes[0].Place.Line != 4 || report.Listeners[0].Action != "updated" {
		t.Errorf("report %+v, %v", report, err)
	}
	history, err := c.History(t.Context())
	if err != nil || len(history) != 2 || history[1].ID != report.ID {
		t.Errorf("history %+v, %v", history, err)
	}

	watching, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.Tail(t.Context(), func() error { close(watching); return nil }, func(gateway.Copy) error { return nil })
	}()
	<-watching
	stop()
	if err := <-ended; err == nil || err.Error() != "EOF" {
		t.Errorf("the tail of a daemon that stops ends with %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNobody) || !strings.Contains(err.Error(), c.Socket) {
		t.Errorf("after the end: %v", err)
	}
}

func TestA_client_that_waits_no_longer_is_let_go(t *testing.T) {
	c, _, _ := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Tail(ctx, func() error { cancel(); return nil }, func(gateway.Copy) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("tail ends with %v", err)
	}
	if _, err := c.Reload(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("reload ends with %v", err)
	}
}

func TestWhat_the_API_does_not_know_is_an_error_that_says_so(t *testing.T) {
	c, _, _ := serve(t)
	if _, err := c.open(t.Context(), request{method: http.MethodGet, path: "/v1/nothing"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("another path: %v", err)
	}
	if _, err := c.open(t.Context(), request{method: http.MethodGet, path: pathReload}); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("a reload by GET: %v", err)
	}
	other, err := net.Listen("unix", c.Socket+"x")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		conn, err := other.Accept()
		if err == nil {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope")
			conn.Close()
		}
	}()
	if _, err := (&Client{Socket: c.Socket + "x"}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "read the daemon's answer") {
		t.Errorf("somebody else: %v", err)
	}
}

func TestA_probe_has_the_daemon_ask_its_broker_and_returns_what_that_says(t *testing.T) {
	double := amqptest.Start(t)
	c, _, _ := serveAt(t, double.URL())
	double.Exchange("x", amqptest.Missing)
	problems, err := c.Probe(t.Context())
	if err != nil || len(problems) != 1 || !strings.HasPrefix(problems[0], `exchange "x" is unusable: `) {
		t.Errorf("%q, %v", problems, err)
	}
}
