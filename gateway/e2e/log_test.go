package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

func TestThe_log_has_one_line_a_mail_and_at_most_ten_refusals_a_second_of_a_listener_then_a_count(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := start(t, url, config(
		listener("in", q.Name, `routing_key: "mail.{recipient.domain}"`),
		listener("strict", q.Name, `routes: [{match: {recipient: "*"}, reject: "550 5.7.1 not here"}]`),
	))
	from := len(d.Lines(0))
	id := deliver(t, d.Addr(t, "in"), "ann@client.example", "one@example.com", "two@example.com")
	line := d.Await(t, "the mail is accepted", from, says("accepted"))
	for field, want := range map[string]string{
		"level": "INFO", "listener": "in", "id": id, "sender": "ann@client.example", "recipients": "2",
		"exchange": q.Name, "routing_key": "mail.example.com",
	} {
		if got := line.Field(field); got != want {
			t.Errorf("%s is %q, want %q, in: %s", field, got, want, line.Text)
		}
	}
	if !strings.HasPrefix(line.Field("client"), "127.0.0.1:") || line.Field("took_ms") == "" || line.Field("spooled") != "" {
		t.Errorf("line %s", line.Text)
	}

	// A session that says nothing wrong, one that is refused two hundred times, and one on the other listener.
	const refused = 200
	c := smtptest.Open(t, d.Addr(t, "strict"))
	c.Do("MAIL FROM:<eve@client.example>")
	c.Send(strings.Repeat("RCPT TO:<nobody@example.com>\r\n", refused))
	for range refused {
		c.Want("550 5.7.1 not here")
	}
	c.Send("QUIT\r\n")
	c.Reply()
	other := smtptest.Open(t, d.Addr(t, "in"))
	other.Do("RCPT TO:<nobody@example.com>")
	eventually(t, "every refusal is logged or counted", func() bool {
		logged, counted, windows := refusals(t, d.Lines(from), "strict")
		if logged > 10*windows {
			t.Fatalf("%d refusals are logged one by one in %d s", logged, windows)
		}
		return logged+counted == refused
	})
	if logged, _, _ := refusals(t, d.Lines(from), "in"); logged != 1 {
		t.Errorf("one listener's flood hid the other's refusal: %d logged", logged)
	}
	for _, l := range d.Lines(from) {
		switch l.Field("msg") {
		case "accepted", "refused", "more refusals, not logged one by one", "configuration applied": // the start's last line
		default:
			t.Errorf("nothing else happened, and the log says %s", l.Text)
		}
	}
}

// refusals are how many of a listener's were logged one by one, how many only counted, and in how many seconds: as often as there
// was something to count, or as the log's own clock says.
func refusals(t *testing.T, lines []daemon.Line, listener string) (logged, counted, windows int) {
	t.Helper()
	windows = 1
	var first, last time.Time
	for _, l := range lines {
		switch {
		case l.Field("listener") != listener:
		case l.Field("msg") == "refused":
			logged++
			at, err := time.Parse(time.RFC3339Nano, l.Field("time"))
			must(t, err)
			if first.IsZero() {
				first = at
			}
			last = at
		case strings.HasPrefix(l.Field("msg"), "more refusals"):
			n, err := strconv.Atoi(l.Field("count"))
			must(t, err)
			counted += n
			windows++
		}
	}
	return logged, counted, max(windows, 1+int(last.Sub(first)/time.Second))
}

func TestWhat_a_client_says_cannot_forge_a_line_of_the_log(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := start(t, url, config(listener("in", q.Name)))
	from := len(d.Lines(0))
	c := smtptest.Dial(t, d.Addr(t, "in"))
	c.Reply()
	refused := 0
	for _, line := range []string{
		"EHLO a\x1b[2J\x07b",
		"HELO {\"msg\":\"forged\"}",
		"EHLO client.example",
		"MAIL FROM:<\"forged\\\"\"@client.example> \"msg\"=\"forged\"",
		"NOOP\r{\"msg\":\"forged\"}",
		"\x00\xff\x1b]0;forged\x07",
	} {
		if c.Do(line).Code() >= 400 {
			refused++
		}
	}
	if refused < 4 {
		t.Errorf("%d lines were refused", refused)
	}
	eventually(t, "the refusals are logged", func() bool { return len(said(d, "refused")) == refused })
	for _, l := range d.Lines(from) {
		if l.Field("msg") == "" || l.Field("msg") == "forged" || strings.ContainsAny(l.Text, "\x1b\x07\x00") || !utf8.ValidString(l.Text) {
			t.Errorf("line %q", l.Text)
		}
	}
}

func TestThe_daemon_outlives_whoever_read_its_log(t *testing.T) {
	t.Parallel()
	o := options(t, "amqp://guest:guest@127.0.0.1:1/", config(listener("in", "nowhere")))
	path := filepath.Join(t.TempDir(), "lsmtpd.yaml")
	socket := socketKey.FindStringSubmatch(o.Config)[1]
	write := func(size string) {
		t.Helper()
		must(t, os.WriteFile(path, fmt.Appendf(nil, "admin: {socket: %q}\nspool: {dir: %q}\namqp: {urls: [%q]}\nlisteners: [{name: in, address: %q, exchange: x, size_limit: %s}]\n",
			socket, t.TempDir()+"/spool", o.AMQP, "unix:"+socket+"-in", size), 0o600))
	}
	write("1MiB")
	cmd := exec.Command(daemon.Binary(t), "run", "-c", path)
	log, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "configuration applied") {
	}
	must(t, log.Close())
	client := &admin.Client{Socket: socket}
	write("2MiB")
	for range 3 { // each is a line that nobody reads
		if _, err := client.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
