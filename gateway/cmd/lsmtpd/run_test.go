package main

import (
	"bytes"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/routes/config"
)

func TestSignals_stop_then_cut_and_a_hang_up_ends_nothing(t *testing.T) {
	stops, hangups, done := make(chan os.Signal), make(chan os.Signal), make(chan struct{})
	p := &program{stops: stops, hangups: hangups}
	var b bytes.Buffer
	log := newLogging(&b, config.Log{Level: "info", Format: "text"}).logger()
	var did []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.obey(done, log, func() { did = append(did, "stop") }, func() { did = append(did, "cut") }, func() { did = append(did, "reload") })
	}()
	hangups <- syscall.SIGHUP
	stops <- syscall.SIGTERM
	hangups <- syscall.SIGHUP
	hangups <- syscall.SIGHUP
	stops <- os.Interrupt
	close(done)
	<-ended
	if got := strings.Join(did, " "); got != "reload stop cut" {
		t.Errorf("%q", got)
	}
	for _, want := range []string{"asked to stop signal=terminated", "asked again: cutting what is under way signal=interrupt"} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("%q is not in %q", want, b.String())
		}
	}
	if n := strings.Count(b.String(), "no reload any more"); n != 1 {
		t.Errorf("%d warnings in %q", n, b.String())
	}
}

func TestRun_finishes_a_transaction_before_it_stops_and_cuts_it_when_asked_again(t *testing.T) {
	for _, signals := range []int{1, 2} {
		t.Run(fmt.Sprintf("asked %d times", signals), func(t *testing.T) {
			stops := make(chan os.Signal, 2)
			var stderr bytes.Buffer // to be read after the end
			p := &program{stdin: strings.NewReader(""), stdout: &stderr, stderr: &stderr, stops: stops}
			path, address := runnable(t)
			status := make(chan int, 1)
			go func() { status <- p.dispatch([]string{"run", "-c", path}) }()

			conn, err := dialUntilUp(address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c := textproto.NewConn(conn)
			expect(t, c, 220)
			for _, command := range []string{"EHLO client.example.com", "MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.net>"} {
				if err := c.PrintfLine("%s", command); err != nil {
					t.Fatal(err)
				}
				expect(t, c, 250)
			}
			for range signals {
				stops <- syscall.SIGTERM
			}
			if signals == 1 {
				if err := c.PrintfLine("RSET"); err != nil {
					t.Fatal(err)
				}
				expect(t, c, 250)
				expect(t, c, 421)
			} else if line, err := c.ReadLine(); err == nil && !strings.HasPrefix(line, "421") {
				t.Errorf("%q", line)
			}
			if got := <-status; got != exitDone {
				t.Errorf("exit status %d: %s", got, &stderr)
			}
		})
	}
}

func TestRun_can_be_stopped_while_it_starts(t *testing.T) {
	stops := make(chan os.Signal, 2)
	stops <- syscall.SIGTERM
	var stderr bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &stderr, stderr: &stderr, stops: stops}
	path, _ := runnable(t)
	if got := p.dispatch([]string{"run", "-c", path}); got != exitDone {
		t.Errorf("exit status %d: %s", got, &stderr)
	}
}

// runnable is a configuration whose broker is not there, and its listener's address.
func runnable(t *testing.T) (path, address string) {
	t.Helper()
	port, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", port)
	path = filepath.Join(t.TempDir(), "lsmtpd.yaml")
	text := fmt.Sprintf("amqp: {urls: [%q]}\nspool: {dir: spool}\nadmin: {socket: s}\ndrain_timeout: 0\nlisteners: [{name: inbound, address: %q, exchange: x}]\n",
		silent(t, "guest:guest"), address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, address
}

// expect reads a reply of that code.
func expect(t *testing.T, c *textproto.Conn, code int) {
	t.Helper()
	if _, _, err := c.ReadResponse(code); err != nil {
		t.Fatal(err)
	}
}
