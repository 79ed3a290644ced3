package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/smtp"
	"os/exec"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/certs"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/peers"
	"lsmtpd/gateway/internal/rabbit"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/crypto/bcrypt"
)

// station is a daemon with a listener of each kind that other people's clients come to, all into one queue.
type station struct {
	*daemon.Daemon
	queue *rabbit.Inbox
}

const stationUser, stationPassword = "app", "correct horse"

func startStation(t *testing.T) *station {
	t.Helper()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	base := t.TempDir() + "/mx"
	certs.NewAuthority(t).Issue(t, 1, "mx.example.org").Write(t, base)
	transport := fmt.Sprintf("cert_file: %q, key_file: %q", base+".pem", base+".key")
	users := fmt.Sprintf("auth: {required: true, users: [{name: %s, password_hash: %q}]}", stationUser, bcryptHash(t, stationPassword))
	return &station{start(t, url, config(
		listener("plain", q.Name, "line_endings: fix"),
		listener("submission", q.Name, "tls: {required: true, "+transport+"}", users),
		listener("implicit", q.Name, "tls: {mode: implicit, "+transport+"}", users),
		listener("proxied", q.Name, "proxy_protocol: [127.0.0.0/8]"),
		listener("lmtp", q.Name, "protocol: lmtp"),
	)), q}
}

// got returns the n deliveries that came.
func (s *station) got(t *testing.T, n int) []amqp.Delivery {
	t.Helper()
	return rabbit.Drain(t, s.queue, n, patience)
}

// one returns the payload of the only one, and the mail without our Received field.
func (s *station) one(t *testing.T) (payload, string) {
	t.Helper()
	d := s.got(t, 1)[0]
	p := wantPayload(t, d)
	mail, err := mailOf(&d)
	must(t, err)
	content, ok := withoutReceived(mail)
	if !ok {
		t.Errorf("no Received field before %.80q", mail)
	}
	return p, content
}

// run runs a peer to its good end.
func run(t *testing.T, c *exec.Cmd, stdin string) string {
	t.Helper()
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c.Path, err, out)
	}
	return string(out)
}

func TestGos_own_client_delivers_over_STARTTLS_with_AUTH(t *testing.T) {
	t.Parallel()
	s := startStation(t)
	c, err := smtp.Dial(s.Addr(t, "submission"))
	must(t, err)
	defer c.Close()
	must(t, c.StartTLS(&tls.Config{InsecureSkipVerify: true}))
	must(t, c.Auth(smtp.PlainAuth("", stationUser, stationPassword, "127.0.0.1")))
	must(t, c.Mail("ann@client.example"))
	must(t, c.Rcpt("bob@example.com"))
	w, err := c.Data()
	must(t, err)
	_, err = w.Write([]byte(letter))
	must(t, err)
	must(t, w.Close())
	must(t, c.Quit())
	p, content := s.one(t)
	if content != letter || p.User != stationUser || !strings.HasPrefix(p.TLS, "TLS1.3") {
		t.Errorf("user %q, TLS %q, mail %q", p.User, p.TLS, content)
	}
}

// pythonClient sends one mail of 8-bit text with smtplib.
const pythonClient = `
import base64, smtplib, ssl, sys
host, port, user, password, mail = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with smtplib.SMTP(host, int(port)) as s:
    s.starttls(context=context)
    s.login(user, password)
    refused = s.sendmail("änn@client.example", ["bob@example.com", "bøb@example.com"], base64.b64decode(mail), ["SMTPUTF8", "BODY=8BITMIME"])
    assert not refused, refused
`

func TestPythons_client_delivers_8_bit_text_to_UTF_8_addresses(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here")
	}
	s := startStation(t)
	const mail = "Subject: Grüße\r\n\r\n.\r\nпривет\r\n..\r\n"
	host, port, _ := strings.Cut(s.Addr(t, "submission"), ":")
	run(t, exec.Command(python, "-c", pythonClient, host, port, stationUser, stationPassword, base64.StdEncoding.EncodeToString([]byte(mail))), "")
	p, content := s.one(t)
	if content != mail || p.Sender != "änn@client.example" || fmt.Sprint(p.Recipients) != "[bob@example.com bøb@example.com]" {
		t.Errorf("sender %q, recipients %q, mail %q", p.Sender, p.Recipients, content)
	}
}

func TestInterop_swaks(t *testing.T) {
	peers.Skip(t)
	s := startStation(t)
	login := []string{"--auth-user", stationUser, "--auth-password", stationPassword}
	for _, c := range []struct {
		name, listener string
		args           []string
		want           func(payload) bool
	}{
		{"in_clear", "plain", nil, func(p payload) bool { return p.TLS == "" && p.User == "" }},
		{"pipelined", "plain", []string{"--pipeline"}, func(p payload) bool { return p.TLS == "" }},
		{"STARTTLS_and_PLAIN", "submission", append([]string{"--tls", "--auth", "PLAIN"}, login...), func(p payload) bool { return p.TLS != "" && p.User == stationUser }},
		{"STARTTLS_and_LOGIN", "submission", append([]string{"--tls", "--auth", "LOGIN"}, login...), func(p payload) bool { return p.TLS != "" && p.User == stationUser }},
		{"STARTTLS_pipelined", "submission", append([]string{"--tls", "--pipeline", "--auth", "PLAIN"}, login...), func(p payload) bool { return p.TLS != "" }},
		{"implicit_TLS", "implicit", append([]string{"--tls-on-connect", "--auth", "LOGIN"}, login...), func(p payload) bool { return p.TLS != "" && p.User == stationUser }},
		{"PROXY_v1", "proxied", []string{"--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "192.0.2.7", "--proxy-source-port", "4321", "--proxy-dest", "127.0.0.1", "--proxy-dest-port", "25"},
			func(p payload) bool { return p.ClientIP == "192.0.2.7" }},
		{"PROXY_v2", "proxied", []string{"--proxy-version", "2", "--proxy-family", "AF_INET6", "--proxy-protocol", "STREAM", "--proxy-command", "PROXY", "--proxy-source", "2001:db8::7", "--proxy-source-port", "4321", "--proxy-dest", "::1", "--proxy-dest-port", "25"},
			func(p payload) bool { return p.ClientIP == "2001:db8::7" }},
		{"LMTP", "lmtp", []string{"--protocol", "LMTP"}, func(p payload) bool { return true }},
		{"LMTP_pipelined", "lmtp", []string{"--protocol", "LMTP", "--pipeline"}, func(p payload) bool { return true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--server", s.Addr(t, c.listener), "--from", "ann@client.example", "--to", "bob@example.com,eve@example.com", "--body", "from swaks"}, c.args...)
			out := run(t, peers.Swaks(t, args...), "")
			p, content := s.one(t)
			if !c.want(p) || !strings.Contains(content, "from swaks\r\n") || len(p.Recipients) != 2 {
				t.Errorf("payload %+v\nmail %q\n%s", p, content, out)
			}
		})
	}
}

func TestInterop_smtp_source(t *testing.T) {
	peers.Skip(t)
	s := startStation(t)
	const sessions, mails = 20, 1000
	for _, args := range [][]string{
		{"-m", fmt.Sprint(mails), "-s", fmt.Sprint(sessions), "-l", "4000", "-r", "3"},        // a mail a connection
		{"-d", "-m", fmt.Sprint(mails), "-s", fmt.Sprint(sessions), "-l", "40000", "-r", "1"}, // and many
	} {
		run(t, peers.SMTPSource(t, append(args, "-f", "ann@client.example", "-t", "bob@example.com", s.Addr(t, "plain"))...), "")
		s.got(t, mails)
	}
	run(t, peers.SMTPSource(t, "-L", "-d", "-m", "100", "-s", "5", "-f", "ann@client.example", "-t", "bob@example.com", s.Addr(t, "lmtp")), "")
	s.got(t, 100)
}

func TestInterop_Exim_sends_in_chunks(t *testing.T) {
	peers.Skip(t)
	s := startStation(t)
	mail := strings.Repeat("a line of text that ends as Unix has it\n", 5000)
	out := run(t, peers.Exim(t, s.Addr(t, "plain"), "-f", "ann@client.example", "bob@example.com"), "Subject: chunks\n\n"+mail)
	if !strings.Contains(out, "BDAT") {
		t.Fatalf("it sent no chunk\n%s", out)
	}
	_, content := s.one(t)
	if !strings.HasSuffix(content, "\r\n\r\n"+strings.ReplaceAll(mail, "\n", "\r\n")) {
		t.Errorf("mail of %d octets\n%s", len(content), out)
	}
}

// bcryptHash is what password_hash wants, at the least cost.
func bcryptHash(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	must(t, err)
	return string(hash)
}
