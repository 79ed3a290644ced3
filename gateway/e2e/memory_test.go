package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

// mostResident is what a process may take that may hold 256 MiB of mail.
const mostResident = 400 << 20

// BenchmarkCrowd is clients that send more at once than a daemon may hold, which is 256 MiB. Each mail is accepted or its sender told
// to come back, some get through, and the process stays under 400 MiB.
func BenchmarkCrowd(b *testing.B) {
	node, err := rabbit.Start(context.Background(), rabbit.Options{Config: []string{"max_message_size = 134217728"}})
	if errors.Is(err, rabbit.ErrNotInstalled) {
		b.Skip(err)
	}
	must(b, err)
	b.Cleanup(node.Close)
	for _, c := range []struct {
		name    string
		senders int
		octets  int
		size    bool // of which MAIL tells
		format  string
	}{
		{"200 of 50 MB", 200, 50_000_000, true, "raw"},
		{"200 of 50 MB, without SIZE", 200, 50_000_000, false, "raw"},
		{"200 of 50 MB, to json", 200, 50_000_000, true, "json"},
		{"3000 of 150 KB", 3000, 150_000, true, "raw"},
		{"3000 of 150 KB, to json", 3000, 150_000, true, "json"},
	} {
		b.Run(c.name, func(b *testing.B) {
			content := bytes.Repeat(append(bytes.Repeat([]byte("x"), 76), "\r\n"...), c.octets/78)
			mail := "MAIL FROM:<a@example.com>"
			if c.size {
				mail += fmt.Sprintf(" SIZE=%d", len(content))
			}
			for b.Loop() {
				d := start(b, node.URL(), crowdConfig(c.format))
				accepted, later := sendAtOnce(b, c.senders, func() (int, error) { return sendOne(d.Addr(b, "in"), mail, content) })
				peak := peakResident(b, d.Pid())
				b.ReportMetric(float64(accepted), "accepted")
				b.ReportMetric(float64(later), "told-to-come-back")
				b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
				if accepted == 0 || accepted+later != int64(c.senders) || peak >= mostResident {
					b.Errorf("of %d mails %d were accepted and %d told to come back; the process took %d MiB", c.senders, accepted, later, peak>>20)
				}
				d.Stop(b)
			}
		})
	}
}

// crowdConfig publishes to a queue that keeps nothing.
func crowdConfig(format string) string {
	queue := `{exchanges: [{name: crowd, type: fanout}], queues: [{name: crowd, arguments: {x-max-length: 0}}], bindings: [{exchange: crowd, queue: crowd}]}`
	c := config(listener("in", "crowd", "format: "+format, "size_limit: 60MB", "max_memory: 100%"))
	return withAMQP("limits: {memory: 256MiB}\n"+c, "max_message_size: 128MiB, topology: "+queue)
}

// sendAtOnce has every client send one mail, and tells how many were accepted and how many told to come back.
func sendAtOnce(b *testing.B, senders int, one func() (code int, err error)) (accepted, later int64) {
	var a, l atomic.Int64
	var clients sync.WaitGroup
	for range senders {
		clients.Go(func() {
			switch code, err := one(); {
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

// BenchmarkBacklog is 24 mails of 11 MB that were spooled, and are replayed by a daemon that may hold 32 MiB: it reads them back within
// that.
func BenchmarkBacklog(b *testing.B) {
	node, err := rabbit.Start(context.Background(), rabbit.Options{})
	if errors.Is(err, rabbit.ErrNotInstalled) {
		b.Skip(err)
	}
	must(b, err)
	b.Cleanup(node.Close)
	const mails, most = 24, 96 << 20
	content := bytes.Repeat(append(bytes.Repeat([]byte("x"), 76), "\r\n"...), 11_000_000/78)
	for _, format := range []string{"json", "raw"} {
		b.Run(format, func(b *testing.B) {
			for b.Loop() {
				url, proxy := proxied(b, node)
				must(b, proxy.Refuse(true))
				d := startAway(b, url, strings.Replace(crowdConfig(format), "256MiB", "32MiB", 1))
				for range mails {
					if code, err := sendOne(d.Addr(b, "in"), "MAIL FROM:<a@example.com>", content); code != 250 {
						b.Fatal(code, err)
					}
				}
				must(b, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.Pid()), []byte("5"), 0)) // the peak so far is forgotten
				must(b, proxy.Refuse(false))
				eventually(b, "the spool is empty", func() bool { return len(spooled(b, d)) == 0 })
				peak := peakResident(b, d.Pid())
				b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
				if peak >= most {
					b.Errorf("the process took %d MiB", peak>>20)
				}
				d.Stop(b)
			}
		})
	}
}
