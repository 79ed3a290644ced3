// Package e2e tests the real lsmtpd between real clients and a real RabbitMQ: what it answers, what arrives, what it says in
// its log. It knows nothing of the program's inside.
package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestMain(m *testing.M) { rabbit.Main(m) }

// patience is how long anything may take on a busy machine before the test fails.
const patience = time.Minute

// config is an lsmtpd.yaml in daemon's template, of these listeners; see listener.
func config(listeners ...string) string {
	return `
hostname: mx.example.org
admin: {socket: "{{.Dir}}/admin.sock"}
amqp: {urls: ["{{.AMQP}}"]}
spool: {dir: "{{.Dir}}/spool"}
listeners:
` + strings.Join(listeners, "")
}

// listener is one that publishes to exchange; more is further keys, in braces' style: "format: raw, size_limit: 1KiB".
func listener(name, exchange string, more ...string) string {
	keys := append([]string{fmt.Sprintf(`name: %s, address: "{{addr %q}}", exchange: %q`, name, name, exchange)}, more...)
	return "  - {" + strings.Join(keys, ", ") + "}\n"
}

// withAMQP is c with more keys under amqp.
func withAMQP(c, keys string) string {
	return strings.Replace(c, "amqp: {", "amqp: {"+keys+", ", 1)
}

// start runs lsmtpd with config against the broker at url until it listens and is connected: it listens without, after half a
// second, and spools.
func start(t testing.TB, url, config string) *daemon.Daemon {
	t.Helper()
	d := startAway(t, url, config)
	awaitBroker(t, d)
	return d
}

// startAway is start where the broker does not answer yet.
func startAway(t testing.TB, url, config string) *daemon.Daemon {
	t.Helper()
	return daemon.Start(t, options(t, url, config))
}

func awaitBroker(t testing.TB, d *daemon.Daemon) {
	t.Helper()
	d.Await(t, "the broker is there", 0, says("broker connected"))
}

func options(t testing.TB, url, config string) daemon.Options {
	t.Helper()
	// The admin socket is not in {{.Dir}}, which holds the test's name: a socket's path ends at 107 octets.
	short, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	return daemon.Options{
		Config: strings.ReplaceAll(config, "{{.Dir}}/admin.sock", short+"/admin.sock"),
		AMQP:   url,
		Env:    []string{"GORACE=atexit_sleep_ms=0"}, // a second for each daemon otherwise
	}
}

// proxied is the URL of a broker behind a proxy, which can cut what the broker itself, shared, must not.
func proxied(t testing.TB, n *rabbit.Node) (url string, p *faultnet.Proxy) {
	t.Helper()
	p, err := faultnet.NewProxy(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return "amqp://guest:guest@" + p.Addr() + "/", p
}

// spooled are the files in the daemon's spool.
func spooled(t testing.TB, d *daemon.Daemon) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.Dir(), "spool", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// spoolFile is what a person reads first in a spooled mail.
type spoolFile struct {
	Delivery struct {
		Exchange string `json:"exchange"`
	} `json:"delivery"`
	payload
}

// readSpool returns what is in the daemon's spool, "exchange: recipients of mail id", sorted.
func readSpool(t testing.TB, d *daemon.Daemon) []string {
	t.Helper()
	var all []string
	for _, path := range spooled(t, d) {
		b, err := os.ReadFile(path)
		must(t, err)
		var f spoolFile
		must(t, json.Unmarshal(b, &f))
		if want := f.MessageID + ".json"; filepath.Base(path) != want {
			t.Errorf("the file of message %s is %s", f.MessageID, filepath.Base(path))
		}
		all = append(all, inSpool(f.Delivery.Exchange, f.MailID, f.Recipients...))
	}
	slices.Sort(all)
	return all
}

// inSpool is how readSpool tells of one delivery.
func inSpool(exchange, mailID string, recipients ...string) string {
	return fmt.Sprintf("%s: %s of mail %s", exchange, recipients, mailID)
}

// eventually waits for what nobody tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// channel is one on the broker at url, for what the rig has no word for. It is open until t ends.
func channel(t testing.TB, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(patience)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// said returns the lines of the daemon's log whose message is msg.
func said(d *daemon.Daemon, msg string) []daemon.Line {
	var lines []daemon.Line
	for _, l := range d.Lines(0) {
		if l.Field("msg") == msg {
			lines = append(lines, l)
		}
	}
	return lines
}

// says matches a line of the log by its message's beginning.
func says(beginning string) func(daemon.Line) bool {
	return func(l daemon.Line) bool { return strings.HasPrefix(l.Field("msg"), beginning) }
}

// refusesConnections tells whether nobody listens on addr.
func refusesConnections(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err != nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
