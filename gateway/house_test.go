package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/routes"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nowhere is a broker that is not there.
const nowhere = "amqp://guest:guest@127.0.0.1:1/"

// house is a gateway in a directory of its own, without a broker.
type house struct {
	*Gateway
	t      testing.TB
	dir    string
	answer http.HandlerFunc // of the admin socket
}

// newHouse runs a gateway from its first table, made of listeners, to the end of t.
func newHouse(t testing.TB, listeners string) *house {
	t.Helper()
	return newHouseThatLogs(t, slog.New(slog.DiscardHandler), listeners)
}

func newHouseThatLogs(t testing.TB, log *slog.Logger, listeners string) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "house") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &house{Gateway: New(Options{Log: log}), t: t, dir: dir, answer: http.NotFound}
	h.ServeAdmin(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r) }))
	h.must(h.apply(h.config(listeners)))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		h.Cut()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

// config is a file whose spool and admin socket are in the house's directory.
func (h *house) config(listeners string) string {
	return fmt.Sprintf("amqp: {urls: [%q]}\nspool: {dir: %s/spool}\nadmin: {socket: %s/admin.sock}\nhostname: mx.example\nlisteners:\n%s",
		nowhere, h.dir, h.dir, listeners)
}

// entry is one of listeners:.
func entry(name, address string, more ...string) string {
	return "- {" + strings.Join(append([]string{"name: " + name, fmt.Sprintf("address: %q", address), "exchange: x"}, more...), ", ") + "}\n"
}

// apply puts a configuration in force.
func (h *house) apply(config string) (routes.Applied, error) {
	h.t.Helper()
	return h.Apply(context.Background(), h.table(config))
}

func (h *house) table(config string) *routes.Table {
	h.t.Helper()
	path := filepath.Join(h.dir, "lsmtpd.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	table, err := routes.Load(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return table
}

func (h *house) must(a routes.Applied, err error) routes.Applied {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// port is an address of 127.0.0.1 that nobody else gets.
func port(t testing.TB) string {
	t.Helper()
	p, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", p)
}

// actions tells what became of the listeners: "a kept, b added".
func actions(a routes.Applied) string {
	all := make([]string, len(a.Listeners))
	for i, l := range a.Listeners {
		all[i] = l.Name + " " + l.Action
	}
	return strings.Join(all, ", ")
}

// eventually waits for what nobody tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// listening tells this process's listening sockets by address, 127.0.0.1:port or unix:/path, and the inode of each; see
// proc_net(5).
func listening(t testing.TB) map[string]string {
	t.Helper()
	own := map[string]bool{}
	for _, to := range descriptors(t) {
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	sockets := map[string]string{}
	for line := range strings.Lines(proc(t, "/proc/self/net/tcp")) {
		if !strings.Contains(line, " 0A ") { // TCP_LISTEN; most lines are of other states
			continue
		}
		var ip [4]byte
		var port int
		f := strings.Fields(line)
		_, err := fmt.Sscanf(f[1], "%02X%02X%02X%02X:%X", &ip[3], &ip[2], &ip[1], &ip[0], &port)
		if inode := f[9]; err == nil && own[inode] {
			sockets[fmt.Sprintf("%d.%d.%d.%d:%d", ip[0], ip[1], ip[2], ip[3], port)] = inode
		}
	}
	for line := range strings.Lines(proc(t, "/proc/self/net/unix")) {
		const accepting = "00010000"
		if f := strings.Fields(line); len(f) == 8 && f[3] == accepting && own[f[6]] {
			sockets["unix:"+f[7]] = f[6]
		}
	}
	return sockets
}

func proc(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// descriptors are what this process has open.
func descriptors(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil && !strings.HasSuffix(to, "/fd") && !strings.HasPrefix(to, "/proc/") {
			open[e.Name()] = to
		}
	}
	return open
}
