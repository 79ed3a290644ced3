package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

const (
	largeMail    = 50_000_000
	largeSenders = 200
	mostResident = 400 << 20
)

// BenchmarkLargeSenders is 200 clients that send 50 MB each at once, to a daemon that may hold 256 MiB. Each is accepted or told to
// come back, some get through, and the process stays under 400 MiB.
func BenchmarkLargeSenders(b *testing.B) {
	node, err := rabbit.Start(context.Background(), rabbit.Options{Config: []string{"max_message_size = 134217728"}})
	if errors.Is(err, rabbit.ErrNotInstalled) {
		b.Skip(err)
	}
	must(b, err)
	b.Cleanup(node.Close)
	content := bytes.Repeat(append(bytes.Repeat([]byte("x"), 76), "\r\n"...), largeMail/78)
	for _, c := range []struct{ name, mail, format string }{
		{"SIZE", fmt.Sprintf("MAIL FROM:<a@example.com> SIZE=%d", len(content)), "raw"},
		{"no SIZE", "MAIL FROM:<a@example.com>", "raw"},
		{"SIZE to json", fmt.Sprintf("MAIL FROM:<a@example.com> SIZE=%d", len(content)), "json"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				d := start(b, node.URL(), largeConfig(c.format))
				accepted, later := sendLarge(b, d.Addr(b, "in"), c.mail, content)
				peak := peakResident(b, d.Pid())
				b.ReportMetric(float64(accepted), "accepted")
				b.ReportMetric(float64(later), "told-to-come-back")
				b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
				if accepted == 0 || accepted+later != largeSenders || peak >= mostResident {
					b.Errorf("of %d mails %d were accepted and %d told to come back; the process took %d MiB", largeSenders, accepted, later, peak>>20)
				}
				d.Stop(b)
			}
		})
	}
}

// largeConfig publishes to a queue that keeps nothing.
func largeConfig(format string) string {
	queue := `{exchanges: [{name: large, type: fanout}], queues: [{name: large, arguments: {x-max-length: 0}}], bindings: [{exchange: large, queue: large}]}`
	c := config(listener("in", "large", "format: "+format, "size_limit: 60MB", "max_memory: 100%"))
	return withAMQP("limits: {memory: 256MiB}\n"+c, "max_message_size: 128MiB, topology: "+queue)
}

// sendLarge has every client send one mail, and tells how many were accepted and how many told to come back.
func sendLarge(b *testing.B, addr, mail string, content []byte) (accepted, later int64) {
	var a, l atomic.Int64
	var clients sync.WaitGroup
	for range largeSenders {
		clients.Go(func() {
			switch code, err := sendOne(addr, mail, content); {
			case err != nil:
				b.Error(err)
			case code == 250:
				a.Add(1)
			case code == 452:
				l.Add(1)
			default:
				b.Errorf("answered with %d", code)
			}
		})
	}
	clients.Wait()
	return a.Load(), l.Load()
}

// sendOne returns the code of the first refusal, or of the last reply.
func sendOne(addr, mail string, content []byte) (int, error) {
	c, err := smtptest.Connect(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.Patience = 10 * time.Minute
	if _, err := c.Hello(); err != nil {
		return 0, err
	}
	for _, line := range []string{mail, "RCPT TO:<b@example.com>", "DATA"} {
		if r, err := c.Exchange(line); err != nil || r.Code() >= 400 {
			return r.Code(), err
		}
	}
	c.SetWriteDeadline(time.Now().Add(c.Patience))
	if _, err := c.Write(content); err != nil {
		return 0, err
	}
	r, err := c.Exchange(".")
	return r.Code(), err
}

// peakResident is the most memory that a process had, in octets; see proc_pid_status(5).
func peakResident(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no VmHWM in /proc")
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	must(t, err)
	return kib << 10
}

