package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/publish"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// linkedSpool fills dir with n files of sixteen destinations. They are links to a few files: what is measured with them reads heads
// only, and a million files of their own would take longer to make than to measure.
func linkedSpool(tb testing.TB, dir string, n int) {
	tb.Helper()
	must(tb, os.Mkdir(dir, 0o700))
	const perFile = 50_000 // ext4 ends at 65,000
	body := strings.Repeat("some seventy octets of text that make up one line of an ordinary mail\\r\\n", 20)
	source := ""
	for i := range n {
		name := filepath.Join(dir, uuid.NewString()+".json")
		if i%perFile != 0 {
			must(tb, os.Link(source, name))
			continue
		}
		source = name
		text := fmt.Sprintf(`{"delivery":{"exchange":"tenant-%d","routing_key":"mail.example.org","format":"json","headers":{},`+
			`"listener":"in","spooled_at":"2026-01-02T03:04:05.%09dZ","checksum":"%064d"},"timestamp":"2026-01-02T03:04:05.000000000+00:00",`+
			`"message_id":"%s","client_address":"client.example","recipients":["to@example.org"],"email_content":"%s","sender":"from@example.org",`+
			`"mail_id":"%[4]s","listener":"in","client_ip":"192.0.2.7","user":"","tls":"","size":1000}`,
			i/perFile%16, n-i, 0, strings.TrimSuffix(filepath.Base(name), ".json"), body)
		must(tb, os.WriteFile(name, []byte(text), 0o600))
	}
}

// peak returns the most memory that a process had so far, in MiB (VmHWM of proc_pid_status(5)).
func peak(tb testing.TB, pid int) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(tb, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	_, err = fmt.Sscan(rest, &kib)
	must(tb, err)
	return kib / 1024
}

// BenchmarkStart_over_a_spool_of_a_million_files tells how long until the daemon listens, until it knows every file while it takes
// mail, and its memory.
func BenchmarkStart_over_a_spool_of_a_million_files(b *testing.B) {
	const n = 1_000_000
	dir := filepath.Join(b.TempDir(), "spool")
	linkedSpool(b, dir, n)
	daemon.Binary(b)
	c := strings.Replace(config(listener("in", "late")), "{{.Dir}}/spool", dir, 1)
	for b.Loop() {
		begun := time.Now()
		d := startReloadableAway(b, "amqp://guest:guest@127.0.0.1:1/", c)
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-listen")
		r := newLedger().begin(b, load{targets: []target{{d.Addr(b, "in"), &rabbit.Inbox{Name: "late"}}}, sessions: 4, pace: 50 * time.Millisecond})
		for deadline := time.Now().Add(5 * patience); d.status().Spools[0].Indexing; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				b.Fatal("the spool is not read within five minutes")
			}
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-index")
		r.stop()
		b.ReportMetric(peak(b, d.Pid()), "MiB-peak")
		if got := d.status().Spools[0]; got.Files <= n || got.Unreadable > 0 {
			b.Errorf("status %+v", got)
		}
		d.Stop(b)
	}
}

// flood delivers n mails of 2 KB over so many sessions, each session at most one a pace, and returns how long it took and how long
// the answer to each final dot did, sorted.
func flood(tb testing.TB, addr string, sessions, n int, pace time.Duration) (took time.Duration, waits []time.Duration) {
	tb.Helper()
	content := "Subject: benchmark\r\n\r\n" + strings.Repeat("some seventy octets of text that make up one line of an ordinary mail\r\n", 28)
	var all sync.WaitGroup
	var mu sync.Mutex
	begun := time.Now()
	for range sessions {
		all.Go(func() {
			c, err := smtptest.Connect(addr)
			if err != nil {
				tb.Error(err)
				return
			}
			defer c.Close()
			if r, err := c.Hello(); err != nil || r.Code() != 250 {
				tb.Errorf("hello: %q, %v", r, err)
				return
			}
			own := make([]time.Duration, 0, n/sessions)
			for range n / sessions {
				paced, sent := time.After(pace), time.Now()
				if r, err := c.Deliver("ann@client.example", []string{"bob@example.com"}, content); err != nil || r.Code() != 250 {
					tb.Errorf("%q, %v", r, err)
					return
				}
				own = append(own, time.Since(sent))
				<-paced
			}
			mu.Lock()
			waits = append(waits, own...)
			mu.Unlock()
		})
	}
	all.Wait()
	took = time.Since(begun)
	slices.Sort(waits)
	return took, waits
}

// published returns how many persistent mails of 2 KB a second a bare publisher has confirmed, with 64 in flight as a replay has.
func published(tb testing.TB, q *rabbit.Inbox, n int) float64 {
	tb.Helper()
	ch := channel(tb, q.URL)
	must(tb, ch.Confirm(false))
	body := []byte(strings.Repeat("x", 2500))
	inFlight := make(chan *amqp.DeferredConfirmation, 64)
	var confirms sync.WaitGroup
	confirms.Go(func() {
		for c := range inFlight {
			c.Wait()
		}
	})
	begun := time.Now()
	for range n {
		c, err := ch.PublishWithDeferredConfirm(q.Name, "k", true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body})
		must(tb, err)
		inFlight <- c
	}
	close(inFlight)
	confirms.Wait()
	return float64(n) / time.Since(begun).Seconds()
}

// BenchmarkSpool_beside_the_broker compares, in one run: mails accepted while the broker is away with those confirmed; a replay with a
// bare publisher; and how long live mail waits beside a replay with how long it waits without.
func BenchmarkSpool_beside_the_broker(b *testing.B) {
	const files, mails, live = 100_000, 20_000, 2_000
	node := rabbit.Shared(b)
	q := rabbit.Queue(b, node.URL())
	url, proxy := proxied(b, node)
	d := startReloadable(b, url, config(listener("in", q.Name, "spool_max_bytes: 0")))
	addr := d.Addr(b, "in")
	purge := func() {
		_, err := channel(b, node.URL()).QueuePurge(q.Name, false)
		must(b, err)
	}
	outage := func() {
		must(b, proxy.Refuse(true))
		proxy.Cut()
		eventually(b, "the broker is away", func() bool { return d.status().Broker.State != publish.Connected })
	}
	empty := func() bool { return d.status().Spools[0].Files == 0 }
	replay := func() {
		must(b, proxy.Refuse(false))
		eventually(b, "the broker is back", func() bool { return d.status().Broker.State == publish.Connected })
	}
	for b.Loop() {
		confirmed, _ := flood(b, addr, 64, mails, 0)
		outage()
		spooled, _ := flood(b, addr, 64, files, 0)
		b.ReportMetric(mails/confirmed.Seconds(), "confirmed/s")
		b.ReportMetric(files/spooled.Seconds(), "spooled/s")
		b.ReportMetric(files/spooled.Seconds()/(mails/confirmed.Seconds()), "spooled/confirmed")

		bare := published(b, q, mails)
		replay()
		begun := time.Now()
		for !empty() {
			time.Sleep(20 * time.Millisecond)
		}
		rate := files / time.Since(begun).Seconds()
		b.ReportMetric(rate, "replayed/s")
		b.ReportMetric(rate/bare, "replayed/bare")
		purge()

		_, alone := flood(b, addr, 8, live, 20*time.Millisecond)
		outage()
		flood(b, addr, 64, files/2, 0)
		replay()
		_, beside := flood(b, addr, 8, live, 20*time.Millisecond)
		left := d.status().Spools[0].Files
		at99 := func(waits []time.Duration) float64 { return waits[len(waits)*99/100].Seconds() * 1000 }
		b.ReportMetric(at99(alone), "ms-p99-alone")
		b.ReportMetric(at99(beside), "ms-p99-beside-a-replay")
		b.ReportMetric(float64(left), "files-left-then")
		purge()
	}
}

// BenchmarkSmall_mail_in_an_outage_beside_mail_of_15_MB tells which part of its rate alone a listener of small mail keeps while the
// broker is away, beside one with as many sessions whose mails have 15.5 MB.
func BenchmarkSmall_mail_in_an_outage_beside_mail_of_15_MB(b *testing.B) {
	const sessions, mails = 8, 2_000
	large := bytes.Repeat(append(bytes.Repeat([]byte("x"), 76), "\r\n"...), 15_500_000/78)
	nobody, err := faultnet.Port()
	must(b, err)
	c := withAMQP(config(listener("small", "x", "spool_max_bytes: 0"), listener("large", "x", "spool_max_bytes: 0", "size_limit: 16MiB")), "max_message_size: 32MiB")
	for b.Loop() {
		d := startAway(b, fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", nobody), c)
		alone, _ := flood(b, d.Addr(b, "small"), sessions, mails, 0)
		stop := make(chan struct{})
		var others sync.WaitGroup
		var larges atomic.Int64
		for range sessions {
			others.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if code, err := sendOne(d.Addr(b, "large"), "MAIL FROM:<a@example.com>", large); err != nil || code != 250 {
						b.Errorf("%d, %v", code, err)
						return
					}
					larges.Add(1)
				}
			})
		}
		eventually(b, "large mail is spooled", func() bool { return larges.Load() > 0 })
		before := larges.Load()
		beside, _ := flood(b, d.Addr(b, "small"), sessions, mails/4, 0)
		b.ReportMetric(float64(larges.Load()-before)*15.5/beside.Seconds(), "large-MB/s")
		close(stop)
		others.Wait()
		b.ReportMetric(mails/alone.Seconds(), "alone/s")
		b.ReportMetric(mails/4/beside.Seconds(), "beside/s")
		b.ReportMetric(alone.Seconds()/(4*beside.Seconds()), "beside/alone")
		d.Stop(b)
	}
}
