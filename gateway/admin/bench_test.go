package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes/config"
	"lsmtpd/routes/reload"
)

// BenchmarkReload puts a file of a thousand listeners in force, each with so many routes, in place of one with a single
// listener, while a session sends a command each millisecond. It reports milliseconds:
//
//	ms/in-force   from the call to its answer
//	ms/commit     of it from the parsed table to the commit: all but reading the file
//	ms/wait       longest wait of the session for a reply meanwhile
//	ms/wait-alone its longest wait in as long a time without a reload
//
// The addresses are of 127.0.0.0/8. There is no broker, and nothing of one is measured.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprintf("1000_listeners_of_%d_routes", n), func(b *testing.B) { benchmarkReload(b, n) })
	}
}

func benchmarkReload(b *testing.B, each int) {
	dir, err := os.MkdirTemp("", "reload") // a socket's path ends at 107 octets, and b.TempDir holds the name
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	path, twin := filepath.Join(dir, "lsmtpd.yaml"), filepath.Join(dir, "twin.yaml")
	port := freePort(b)
	write := func(path string, listeners int) {
		b.Helper()
		if err := os.WriteFile(path, manyListeners(dir, port, listeners, each), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	g := gateway.New(gateway.Options{Log: slog.New(slog.DiscardHandler)})
	r := &reload.Reloader{Path: path, Log: slog.New(slog.DiscardHandler), Apply: g.Apply, Mend: g.Mend}
	write(path, 0)
	write(twin, 1000)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 2)
	go func() { ended <- r.Run(ctx, func(reload.Report) { close(ready) }) }()
	<-ready
	go func() { ended <- g.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				b.Error(err)
			}
		}
	})
	reloaded := func() float64 {
		b.Helper()
		begun := time.Now()
		report, err := r.Reload(ctx, reload.Command)
		if err != nil || report.Result != reload.Applied {
			b.Fatalf("%v: %s", err, report)
		}
		return milliseconds(begun)
	}
	var inForce, commits, waits, alone []float64
	for b.Loop() {
		begun := time.Now()
		if _, err := config.Read(twin); err != nil {
			b.Fatal(err)
		}
		reading := milliseconds(begun)
		s := chat(b, dir)
		write(path, 1000) // the command follows at once: the watcher would wait for quiet
		took := reloaded()
		waits = append(waits, s.end())
		inForce, commits = append(inForce, took), append(commits, max(took-reading, 0))
		write(path, 0)
		reloaded()
		s = chat(b, dir)
		time.Sleep(time.Duration(took * float64(time.Millisecond)))
		alone = append(alone, s.end())
	}
	b.ReportMetric(median(inForce), "ms/in-force")
	b.ReportMetric(median(commits), "ms/commit")
	b.ReportMetric(slices.Max(waits), "ms/wait")
	b.ReportMetric(slices.Max(alone), "ms/wait-alone")
}

// freePort is one that nobody has on 127.0.0.1, and so probably on no other address of 127.0.0.0/8.
func freePort(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// manyListeners is a file with one listener that stays, and so many more with so many routes each.
func manyListeners(dir, port string, n, routes int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "admin: {socket: %q}\nspool: {dir: %q}\namqp: {urls: [\"amqp://guest:guest@127.0.0.1:1/\"]}\nlisteners:\n", dir+"/admin", dir+"/spool")
	fmt.Fprintf(&b, "  - {name: stays, address: \"unix:%s/stays\", exchange: x, max_recipients: 0}\n", dir)
	for i := range n {
		fmt.Fprintf(&b, "  - name: tenant-%d\n    address: 127.1.%d.%d:%s\n    exchange: tenant-%d\n    routing_key: \"mail.{recipient.domain}\"\n    routes:\n", i, i/200, i%200+1, port, i)
		for r := range routes {
			fmt.Fprintf(&b, "      - match: {recipient: \"*@r%d.tenant-%d.example\"}\n        routing_key: \"route.%d\"\n", r, i, r)
		}
	}
	return []byte(b.String())
}

// chatting is a session that sends a command each millisecond.
type chatting struct {
	stop    chan struct{}
	longest chan float64
}

func chat(b *testing.B, dir string) *chatting {
	b.Helper()
	c, err := smtptest.Connect("unix:" + dir + "/stays")
	if err != nil {
		b.Fatal(err)
	}
	s := &chatting{make(chan struct{}), make(chan float64, 1)}
	go func() {
		defer c.Close()
		if _, err := c.Hello(); err != nil {
			b.Error(err)
		}
		if _, err := c.Exchange("MAIL FROM:<ann@client.example>"); err != nil {
			b.Error(err)
		}
		longest := 0.0
		tick := time.NewTicker(time.Millisecond) // flat out it would take a core from the reload
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				s.longest <- longest
				return
			case <-tick.C:
			}
			begun := time.Now()
			if r, err := c.Exchange("RCPT TO:<bob@example.com>"); err != nil || r.Code() != 250 {
				b.Errorf("%v, %v", r, err)
			}
			longest = max(longest, milliseconds(begun))
		}
	}()
	return s
}

func (s *chatting) end() float64 {
	close(s.stop)
	return <-s.longest
}

func milliseconds(begun time.Time) float64 { return float64(time.Since(begun).Microseconds()) / 1000 }

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
