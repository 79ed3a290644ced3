package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"

	"github.com/google/uuid"
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
		d := startReloadable(b, "amqp://guest:guest@127.0.0.1:1/", c)
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
