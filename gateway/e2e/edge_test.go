package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lsmtpd/gateway/internal/certs"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes/reload"
)

// pairIn are the keys of a certificate base.pem with base.key.
func pairIn(base string) string {
	return fmt.Sprintf("cert_file: %[1]s.pem, key_file: %[1]s.key", base)
}

// handshakes is clients that upgrade their connections, one after the other, until it is stopped.
type handshakes struct {
	last    atomic.Int64 // serial number of the certificate that the last one was shown
	count   atomic.Int64
	stop    chan struct{}
	clients sync.WaitGroup
}

// shake begins handshakes of n clients. Each that fails fails t.
func shake(t testing.TB, n int, addr string, config *tls.Config) *handshakes {
	h := &handshakes{stop: make(chan struct{})}
	for range n {
		h.clients.Go(func() {
			for {
				select {
				case <-h.stop:
					return
				default:
				}
				serial, err := shown(addr, config)
				if err != nil {
					t.Errorf("handshake %d: %v", h.count.Load(), err)
					return
				}
				h.last.Store(serial)
				h.count.Add(1)
			}
		})
	}
	t.Cleanup(h.end)
	return h
}

func (h *handshakes) end() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	h.clients.Wait()
}

// goOn waits for some more handshakes.
func (h *handshakes) goOn(t testing.TB) {
	t.Helper()
	from := h.count.Load()
	eventually(t, "there are more handshakes", func() bool { return h.count.Load() >= from+20 || t.Failed() })
}

// shown is the serial number of the certificate that a new session is shown.
func shown(addr string, config *tls.Config) (serial int64, err error) {
	c, err := smtptest.Connect(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err = c.Hello(); err == nil {
		_, err = c.Exchange("STARTTLS")
	}
	if err == nil {
		err = c.StartTLS(config)
	}
	if err == nil {
		_, err = c.Exchange("QUIT")
	}
	if err != nil {
		return 0, err
	}
	return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func TestA_certificate_and_then_its_key_are_replaced_and_no_handshake_fails(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	ca := certs.NewAuthority(t)
	dir := t.TempDir()
	ca.Issue(t, 11, "mx.example.org").Write(t, dir+"/mx")
	d := startReloadable(t, url, config(listener("in", rabbit.Queue(t, url).Name, "tls: {"+pairIn(dir+"/mx")+"}")))
	h := shake(t, 4, d.Addr(t, "in"), &tls.Config{ServerName: "mx.example.org", RootCAs: ca.Pool()})
	h.goOn(t)

	seen := 0
	rejected := func(l daemon.Line) bool {
		return l.Field("msg") == "configuration rejected" && strings.Contains(l.Text, "listeners[0].tls.cert_file: the certificate and its key do not load")
	}
	applied := func(serial int) func(daemon.Line) bool {
		return func(l daemon.Line) bool {
			return l.Field("msg") == "configuration applied" && strings.Contains(l.Text, fmt.Sprintf("serial %x, valid until", serial))
		}
	}
	for serial, put := range map[int]func(path string, content []byte){
		0x12: func(path string, content []byte) { certs.Write(t, path, content) },
		0x13: func(path string, content []byte) { overwrite(t, path, string(content)) },
	} {
		next := ca.Issue(t, int64(serial), "mx.example.org")
		put(dir+"/mx.pem", next.Cert)
		seen = d.Await(t, "the pair is rejected", seen, rejected).Index + 1
		h.goOn(t)
		if n := h.last.Load(); n == int64(serial) {
			t.Errorf("certificate %x is shown without its key", n)
		}
		if s := d.status().Config; !s.Degraded {
			t.Errorf("status %+v", s)
		}
		put(dir+"/mx.key", next.Key)
		seen = d.Await(t, "the new pair is in force", seen, applied(serial)).Index + 1
		eventually(t, "the new certificate is shown", func() bool { return h.last.Load() == int64(serial) || t.Failed() })
		h.goOn(t)
		if s := d.status().Config; s.Degraded {
			t.Errorf("status %+v", s)
		}
	}

	last := h.last.Load()
	certs.Write(t, dir+"/mx.pem", []byte("no certificate\n"))
	if r := d.reload(); r.Result != reload.Rejected {
		t.Errorf("what is no certificate: %s", r)
	}
	h.goOn(t)
	if n := h.last.Load(); n != last {
		t.Errorf("certificate %x is shown instead of %x", n, last)
	}
	h.end()
	t.Logf("%d handshakes", h.count.Load())
}

func TestA_certificate_that_links_lead_to_is_replaced_by_moving_them(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	ca := certs.NewAuthority(t)
	dir := t.TempDir()
	link := func(version int) {
		t.Helper()
		for _, suffix := range []string{".pem", ".key"} {
			must(t, os.Symlink(filepath.Join("archive", strconv.Itoa(version)+suffix), dir+"/new"))
			must(t, os.Rename(dir+"/new", dir+"/mx"+suffix))
		}
	}
	must(t, os.Mkdir(dir+"/archive", 0o700))
	for version := range 3 {
		ca.Issue(t, int64(version), "mx.example.org").Write(t, fmt.Sprintf("%s/archive/%d", dir, version))
	}
	link(0)
	d := startReloadable(t, url, config(listener("in", rabbit.Queue(t, url).Name, "tls: {"+pairIn(dir+"/mx")+"}")))
	client := &tls.Config{ServerName: "mx.example.org", RootCAs: ca.Pool()}
	for version := 1; version < 3; version++ {
		link(version)
		eventually(t, "the new certificate is shown", func() bool {
			serial, err := shown(d.Addr(t, "in"), client)
			must(t, err)
			return serial == int64(version)
		})
	}
}

// login is AUTH PLAIN.
func login(user, password string) string {
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password))
}

func TestA_user_of_a_file_that_passwd_wrote_logs_in_until_the_file_loses_him(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	users := t.TempDir() + "/users"
	line := func(name string) string {
		cmd := exec.Command(daemon.Binary(t), "passwd", "-u", name, "--cost", "4")
		cmd.Stdin = strings.NewReader("secret of " + name + "\n")
		out, err := cmd.Output()
		must(t, err)
		return string(out)
	}
	ann, bob := line("ann"), line("bob")
	overwrite(t, users, ann+bob)
	d := startReloadable(t, url, config(listener("in", q.Name, "routing_key: 'of.{user}'", "auth: {required: true, allow_plaintext: true, users_file: "+users+"}")))
	session := func(user string) *smtptest.Conn {
		t.Helper()
		c := smtptest.Open(t, d.Addr(t, "in"))
		if r := c.Do(login(user, "secret of "+user)); r.Code() != 235 {
			t.Fatal(r)
		}
		if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, letter); r.Code() != 250 {
			t.Fatal(r)
		}
		if key := rabbit.Drain(t, q, 1, patience)[0].RoutingKey; key != "of."+user {
			t.Errorf("key %q", key)
		}
		return c
	}
	hers, his := session("ann"), session("bob")
	wrong := smtptest.Open(t, d.Addr(t, "in"))
	for _, want := range []int{535, 535, 421} {
		if r := wrong.Do(login("e\x1bve", "secret of ann")); r.Code() != want {
			t.Errorf("%q, want %d", r, want)
		}
	}
	wrong.WantEnd()
	d.Await(t, "the failure is logged", 0, func(l daemon.Line) bool { return l.Field("user") == `e\x1bve` && l.Field("code") == "535" })
	if text := d.Text(); strings.Contains(text, "\x1b") || strings.Contains(text, "secret of") {
		t.Error("the log holds a control octet, or a password")
	}

	overwrite(t, users, ann) // nobody asks for a reload
	d.Await(t, "the file is read", 0, func(l daemon.Line) bool {
		return l.Field("msg") == "configuration applied" && strings.Contains(l.Text, `"trigger":"watch"`)
	})
	if r := his.Do("MAIL FROM:<ann@client.example>"); r.Code() != 421 {
		t.Errorf("who is gone: %q", r)
	}
	his.WantEnd()
	if r := hers.SendMail("ann@client.example", []string{"bob@example.com"}, letter); r.Code() != 250 {
		t.Errorf("who is still there: %q", r)
	}
	if r := smtptest.Open(t, d.Addr(t, "in")).Do(login("bob", "secret of bob")); r.Code() != 535 {
		t.Errorf("who comes again: %q", r)
	}
}

func TestNetworks_and_listeners_revoked_or_swapped_between_two_mails_end_the_session_or_rule_it(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	a, b := rabbit.Queue(t, url), rabbit.Queue(t, url)
	d := startReloadable(t, url, config(at("a", "one", a.Name, "allow: [127.0.0.0/8]"), at("b", "two", b.Name)))
	send := func(c *smtptest.Conn) smtptest.Reply {
		t.Helper()
		return c.SendMail("ann@client.example", []string{"bob@example.com"}, letter)
	}
	c := smtptest.Open(t, d.Addr(t, "one"))
	if r := send(c); r.Code() != 250 {
		t.Fatal(r)
	}
	rabbit.Drain(t, a, 1, patience)
	d.apply(config(at("a", "two", a.Name, "allow: [192.0.2.0/24]"), at("b", "one", b.Name)))
	if r := send(c); r.Code() != 250 {
		t.Errorf("the other listener allows everybody: %q", r)
	}
	rabbit.Drain(t, b, 1, patience)
	smtptest.Dial(t, d.Addr(t, "two")).Want("554 5.7.1 Access denied")
	d.apply(config(at("a", "one", a.Name, "allow: [192.0.2.0/24]"), at("b", "two", b.Name)))
	if r := c.Do("MAIL FROM:<ann@client.example>"); r.Code() != 421 {
		t.Errorf("its network is gone: %q", r)
	}
	c.WantEnd()
}

func TestSwaks_upgrades_logs_in_pipelines_and_speaks_for_others_as_a_proxy_does(t *testing.T) {
	t.Parallel()
	swaks, err := exec.LookPath("swaks")
	if err != nil {
		t.Skip("no swaks here")
	}
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	ca := certs.NewAuthority(t)
	dir := t.TempDir()
	ca.Issue(t, 11, "mx.example.org").Write(t, dir+"/mx")
	const hash = "$2a$04$9C0FZFS6vl85yJPG5syZxOJfHLBI1onSDhRuKOkNKDTdokkgyBp8e"
	auth := fmt.Sprintf("auth: {required: true, users: [{name: app, password_hash: %q}]}", hash)
	d := start(t, url, config(
		listener("starttls", q.Name, "tls: {required: true, "+pairIn(dir+"/mx")+"}", auth),
		listener("implicit", q.Name, "tls: {mode: implicit, "+pairIn(dir+"/mx")+"}", auth),
		listener("proxied", q.Name, "proxy_protocol: [127.0.0.1]", "allow: [192.0.2.7, '2001:db8::7']"),
	))
	secured, _ := exec.Command(swaks, "--support").Output()
	v4 := "--proxy-family TCP4 --proxy-source 192.0.2.7 --proxy-source-port 4000 --proxy-dest 127.0.0.1 --proxy-dest-port 25"
	for _, tt := range []struct {
		listener, args string
		tls            bool
		says, client   string
	}{
		{"starttls", "--tls --auth PLAIN --auth-user app --auth-password right", true, "235 2.7.0", "127.0.0.1"},
		{"starttls", "--tls --auth LOGIN --auth-user app --auth-password right --pipeline", true, "235 2.7.0", "127.0.0.1"},
		{"starttls", "--tls --auth PLAIN --auth-user app --auth-password wrong", true, "535 5.7.8", ""},
		{"starttls", "--tls", true, "530 5.7.0 Authentication required", ""},
		{"starttls", "", false, "530 5.7.0 Must issue a STARTTLS command first", ""},
		{"implicit", "--tls-on-connect --auth PLAIN --auth-user app --auth-password right", true, "235 2.7.0", "127.0.0.1"},
		{"proxied", "--proxy-version 1 " + v4, false, "220 mx.example.org", "192.0.2.7"},
		{"proxied", "--proxy-version 2 --proxy-protocol STREAM " + strings.Replace(v4, "TCP4", "AF_INET", 1), false, "220 mx.example.org", "192.0.2.7"},
		{"proxied", "--pipeline --proxy-version 1 " + strings.ReplaceAll(strings.Replace(v4, "192.0.2.7", "192.0.2.8", 1), "127.0.0.1", "192.0.2.1"), false, "554 5.7.1", ""},
		{"proxied", "", false, "", ""},
	} {
		t.Run(tt.listener+" "+tt.args, func(t *testing.T) {
			if tt.tls && !strings.Contains(string(secured), "=== TLS supported") {
				t.Skip("swaks speaks no TLS here")
			}
			args := append([]string{"--server", d.Addr(t, tt.listener), "--from", "ann@client.example", "--to", "bob@example.com", "--timeout", "60s"},
				strings.Fields(tt.args)...)
			if tt.listener == "proxied" && tt.args == "" {
				args[len(args)-1] = "1s" // it waits for a greeting in vain
			}
			out, err := exec.Command(swaks, args...).CombinedOutput()
			if (err == nil) != (tt.client != "") || !strings.Contains(string(out), tt.says) {
				t.Fatalf("%v, %s", err, out)
			}
			if tt.client == "" {
				return
			}
			if p := wantPayload(t, rabbit.Drain(t, q, 1, patience)[0]); p.ClientIP != tt.client || p.Listener != tt.listener {
				t.Errorf("payload %+v", p)
			}
		})
	}
	d.Await(t, "the proxy that sends no header is told of", 0, func(l daemon.Line) bool {
		return l.Field("listener") == "proxied" && strings.Contains(l.Field("error"), "PROXY header")
	})
}
