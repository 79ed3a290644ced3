package faultnet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long anything may take on a busy machine before a test fails.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEverything_that_is_sent_arrives_in_order_up_to_the_close(t *testing.T) {
	p := newProxy(t)
	c := dial(t, p)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("%d octets came back, not the %d sent", len(got), len(sent))
	}
}

func TestA_cut_is_a_reset_at_both_ends_and_leaves_the_next_connection_alone(t *testing.T) {
	p, accepted := newTarget(t)
	c := dial(t, p)
	server := <-accepted
	echoLine(t, c, server, "before")
	p.Cut()
	for name, end := range map[string]net.Conn{"client": c, "server": server} {
		_ = end.SetDeadline(time.Now().Add(patience))
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s reads %v, want a reset", name, err)
		}
	}
	c = dial(t, p)
	echoLine(t, c, <-accepted, "after")
}

func TestA_frozen_connection_says_nothing_and_loses_nothing(t *testing.T) {
	p, accepted := newTarget(t)
	c := dial(t, p)
	server := <-accepted
	echoLine(t, c, server, "before")
	p.Freeze()
	if _, err := io.WriteString(c, "held\n"); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := server.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d octets and %v from a frozen connection", n, err)
	}
	_ = c.CloseWrite()
	p.Thaw()
	_ = server.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(server); err != nil || string(got) != "held\n" {
		t.Errorf("after the thaw: %q, %v", got, err)
	}
}

func TestA_frozen_connection_can_be_cut(t *testing.T) {
	p, accepted := newTarget(t)
	c := dial(t, p)
	<-accepted
	p.Freeze()
	_, _ = io.WriteString(c, "held\n")
	p.Cut()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
}

func TestA_refusing_proxy_refuses_until_it_is_told_otherwise(t *testing.T) {
	p := newProxy(t)
	open := dial(t, p)
	echoed(t, open, "carried, not only accepted")
	if err := p.Refuse(true); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling gives %v, want refused", err)
	}
	echoed(t, open, "an open connection goes on")
	if err := p.Refuse(false); err != nil {
		t.Fatal(err)
	}
	echoed(t, dial(t, p), "again")
}

func TestA_slow_connection_carries_its_rate_and_a_delayed_one_comes_late(t *testing.T) {
	p := newProxy(t)
	c := dial(t, p)
	echoed(t, c, "warm")
	for _, tt := range []struct {
		name    string
		weather func()
		least   time.Duration
	}{
		{"slow", func() { p.Slow(20_000) }, 150 * time.Millisecond}, // two pieces of 50 ms, and the second one back
		{"delayed", func() { p.Slow(0); p.Delay(60 * time.Millisecond) }, 120 * time.Millisecond},
	} {
		tt.weather()
		start := time.Now()
		echoed(t, c, strings.Repeat("x", 2_000))
		if took := time.Since(start); took < tt.least {
			t.Errorf("%s: back after %v, want at least %v", tt.name, took, tt.least)
		}
	}
}

func TestA_target_that_is_not_there_is_a_reset(t *testing.T) {
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProxy(fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := net.Dial("tcp", p.Addr())
	if err == nil { // the reset may be there before Dial returns
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client gets %v, want a reset", err)
	}
}

func TestNo_port_is_given_twice_nor_one_that_the_kernel_gives_to_clients(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, err := Port()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < firstPort || port > lastPort {
			t.Fatalf("port %d", port)
		}
		seen[port] = true
	}
}

// newProxy is a proxy before a server that echoes.
func newProxy(t *testing.T) *Proxy {
	p, accepted := newTarget(t)
	go func() {
		for c := range accepted {
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return p
}

// newTarget is a proxy before a server that hands over what it accepts.
func newTarget(t *testing.T) (*Proxy, <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProxy(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 8)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if n := p.Open(); n != 0 {
			t.Errorf("%d connections outlived the proxy", n)
		}
		l.Close()
	})
	return p, accepted
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func echoed(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%q came back, %v", got, err)
	}
}

func echoLine(t *testing.T, c, server net.Conn, text string) {
	t.Helper()
	_ = server.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(server, got); err != nil || string(got) != text {
		t.Fatalf("%q arrived, %v", got, err)
	}
}
