package gateway

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/certs"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// from dials to "host:port" from another address of this machine, as another client does.
func from(t testing.TB, address, to string) *smtptest.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	return smtptest.New(t, c)
}

// greeted reads the greeting and says EHLO.
func greeted(t testing.TB, c *smtptest.Conn) *smtptest.Conn {
	t.Helper()
	if r, err := c.Hello(); err != nil || r.Code() != 250 {
		t.Fatalf("hello: %q, %v", r, err)
	}
	return c
}

// upgraded is c in TLS, greeted again.
func upgraded(t testing.TB, c *smtptest.Conn, config *tls.Config) *smtptest.Conn {
	t.Helper()
	if r := c.Do("STARTTLS"); r.Code() != 220 {
		t.Fatalf("STARTTLS: %q", r)
	}
	if err := c.StartTLS(config); err != nil {
		t.Fatal(err)
	}
	if r := c.Do("EHLO client.example"); r.Code() != 250 {
		t.Fatalf("EHLO in TLS: %q", r)
	}
	return c
}

// plain is the response of AUTH PLAIN.
func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// mails sends one mail, and returns the first reply that is not what it should be, or the last.
func mails(c *smtptest.Conn) smtptest.Reply {
	return c.SendMail("ann@client.example", []string{"bob@example.com"}, "x")
}

func TestA_listener_shows_the_certificate_for_the_name_that_the_client_asks_for_and_its_first_else(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	ca := certs.NewAuthority(t)
	ca.Issue(t, 11, "mx.example", "mx2.example").Write(t, h.dir+"/one")
	ca.Issue(t, 12, "*.tenant.example").Write(t, h.dir+"/two")
	address := port(t)
	h.must(h.apply(h.config(entry("a", address, fmt.Sprintf(
		"tls: {certificates: [{cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}, {cert_file: %[1]s/two.pem, key_file: %[1]s/two.key}]}", h.dir)))))
	for name, serial := range map[string]int64{"": 11, "mx.example": 11, "MX2.example": 11, "a.tenant.example": 12, "other.example": 11} {
		c := upgraded(t, greeted(t, smtptest.Dial(t, address)), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if got := c.Client.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != serial {
			t.Errorf("%q is shown certificate %d, want %d", name, got, serial)
		}
		if r := mails(c); r.Code() != 250 {
			t.Error(r)
		}
	}
}

// cache notices a ticket.
type cache struct{ t testing.TB }

func (c cache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c cache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.t.Errorf("the server gave a session ticket for %s", key)
	}
}

func TestTLS_is_as_new_as_the_listener_asks_and_there_are_no_tickets(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	ca := certs.NewAuthority(t)
	ca.Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	old, recent := port(t), port(t)
	pair := fmt.Sprintf("cert_file: %[1]s/one.pem, key_file: %[1]s/one.key", h.dir)
	h.must(h.apply(h.config(entry("old", old, "tls: {"+pair+"}") + entry("recent", recent, `tls: {min_version: "1.3", `+pair+"}"))))
	for _, tt := range []struct {
		address string
		version uint16
		good    bool
	}{
		{old, tls.VersionTLS11, false}, {old, tls.VersionTLS12, true}, {old, tls.VersionTLS13, true},
		{recent, tls.VersionTLS12, false}, {recent, tls.VersionTLS13, true},
	} {
		c := greeted(t, smtptest.Dial(t, tt.address))
		if r := c.Do("STARTTLS"); r.Code() != 220 {
			t.Fatal(r)
		}
		err := c.StartTLS(&tls.Config{
			ServerName: "mx.example", RootCAs: ca.Pool(), ClientSessionCache: cache{t},
			MinVersion: tt.version, MaxVersion: tt.version,
		})
		if (err == nil) != tt.good {
			t.Errorf("%s at %s: %v", tls.VersionName(tt.version), tt.address, err)
		}
		if err == nil && c.Do("EHLO client.example").Code() != 250 { // a ticket would come before the reply
			t.Error("no conversation")
		}
	}
}

func TestA_client_shows_a_certificate_where_it_must_and_none_that_nobody_signed(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	ca, clients := certs.NewAuthority(t), certs.NewAuthority(t)
	ca.Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	certs.Write(t, h.dir+"/clients.pem", clients.PEM)
	must, may := port(t), port(t)
	keys := fmt.Sprintf("mode: implicit, cert_file: %[1]s/one.pem, key_file: %[1]s/one.key, client_ca_file: %[1]s/clients.pem", h.dir)
	h.must(h.apply(h.config(entry("must", must, "tls: {"+keys+"}") + entry("may", may, "tls: {client_auth: request, "+keys+"}"))))
	known, stranger := clients.Issue(t, 21, "client.example").TLS(t), ca.Issue(t, 22, "client.example").TLS(t)
	for _, tt := range []struct {
		what, address string
		show          *tls.Certificate
		good          bool
	}{
		{"a known one where it must", must, &known, true}, {"none where it must", must, nil, false}, {"a stranger's where it must", must, &stranger, false},
		{"a known one where it may", may, &known, true}, {"none where it may", may, nil, true}, {"a stranger's where it may", may, &stranger, false},
	} {
		c := smtptest.Dial(t, tt.address)
		config := &tls.Config{ServerName: "mx.example", RootCAs: ca.Pool()}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if tt.show == nil {
				return &tls.Certificate{}, nil
			}
			return tt.show, nil
		}
		err := c.StartTLS(config)
		if err == nil {
			_, err = c.Hello() // in TLS 1.3 the server refuses behind the client's handshake
		}
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

func TestAUTH_is_taken_for_what_the_listener_asks_and_refused_by_the_letter(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	ca := certs.NewAuthority(t)
	ca.Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	address := port(t)
	certs.Write(t, h.dir+"/users", []byte("bob:"+hashOf(t, "in a file")+"\n"))
	h.must(h.apply(h.config(entry("a", address,
		fmt.Sprintf("tls: {cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}", h.dir),
		fmt.Sprintf("auth: {required: true, users_file: %s/users, users: [{name: ann, password_hash: %q}]}", h.dir, hashOf(t, "right"))))))
	c := greeted(t, smtptest.Dial(t, address))
	if r := mails(c); r != "530 5.7.0 Must issue a STARTTLS command first" {
		t.Errorf("mail in clear: %q", r)
	}
	if r := c.Do("AUTH PLAIN " + plain("ann", "right")); r.Code() != 538 {
		t.Errorf("a password in clear: %q", r)
	}
	secured := func() *smtptest.Conn {
		return upgraded(t, greeted(t, smtptest.Dial(t, address)), &tls.Config{ServerName: "mx.example", RootCAs: ca.Pool()})
	}
	c = secured()
	if r := mails(c); r != "530 5.7.0 Authentication required" {
		t.Errorf("mail before AUTH: %q", r)
	}
	for _, wrong := range []string{plain("ann", "wrong"), plain("eve", "right")} {
		if r := c.Do("AUTH PLAIN " + wrong); r != "535 5.7.8 Authentication credentials invalid" {
			t.Errorf("%q", r)
		}
	}
	if r := c.Do("AUTH PLAIN " + plain("ann", "right")); r.Code() != 235 {
		t.Errorf("%q", r)
	}
	for range 2 {
		if r := mails(c); r.Code() != 250 {
			t.Errorf("%q", r)
		}
	}
	c = secured()
	if r := c.Do("AUTH LOGIN"); r.Code() != 334 {
		t.Error(r)
	}
	if r := c.Do(base64.StdEncoding.EncodeToString([]byte("bob"))); r.Code() != 334 {
		t.Error(r)
	}
	if r := c.Do(base64.StdEncoding.EncodeToString([]byte("in a file"))); r.Code() != 235 {
		t.Error(r)
	}
	if r := mails(c); r.Code() != 250 {
		t.Errorf("%q", r)
	}
}

func TestWho_is_not_allowed_is_told_so_and_nothing_else(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	certs.NewAuthority(t).Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	clear, implicit, socket := port(t), port(t), "unix:"+h.dir+"/in.sock"
	allow := `allow: [127.0.0.2/31, "::1"]`
	h.must(h.apply(h.config(entry("clear", clear, allow) + entry("unix", socket, allow) + entry("implicit", implicit, allow,
		fmt.Sprintf("tls: {mode: implicit, cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}", h.dir)))))
	for _, address := range []string{"127.0.0.2", "127.0.0.3"} {
		if r := mails(greeted(t, from(t, address, clear))); r.Code() != 250 {
			t.Errorf("from %s: %q", address, r)
		}
	}
	if r := mails(smtptest.Open(t, socket)); r.Code() != 250 {
		t.Errorf("by a Unix socket: %q", r)
	}
	c := from(t, "127.0.0.4", clear)
	c.Want("554 5.7.1 Access denied")
	for _, line := range []string{"EHLO client.example", "MAIL FROM:<a@b.example>", "STARTTLS", "NOOP"} {
		if r := c.Do(line); r.Code() != 503 {
			t.Errorf("%s: %q", line, r)
		}
	}
	if r := c.Do("QUIT"); r.Code() != 221 {
		t.Error(r)
	}
	c.WantEnd()
	c = from(t, "127.0.0.4", implicit)
	c.WantEnd() // before the handshake
}

func TestA_session_that_a_reload_left_behind_comes_again_or_does_what_is_asked_now(t *testing.T) {
	const offered, required = "auth: {allow_plaintext: true, users: ", "auth: {allow_plaintext: true, required: true, users: "
	people := func(pairs ...string) string {
		var all []string
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, fmt.Sprintf("{name: %s, password_hash: %q}", pairs[i], pairs[i+1]))
		}
		return "[" + strings.Join(all, ", ") + "]}"
	}
	hash, other := hashOf(t, "right"), hashOf(t, "right")
	const gone = "421 4.3.2 The rules have changed, connect again"
	const first, next = "530 5.7.0 Authentication required", "530 5.7.0 Must issue a STARTTLS command first"
	h := newHouse(t, entry("a", port(t)))
	certs.NewAuthority(t).Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	starttls := fmt.Sprintf("tls: {cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}", h.dir)
	needed := strings.Replace(starttls, "{", "{required: true, ", 1)
	for _, tt := range []struct {
		name      string
		old, now  []string // keys of the listener
		user, tls bool     // what the session has done
		want      smtptest.Reply
	}{
		{"another key changed", []string{offered + people("ann", hash)}, []string{offered + people("ann", hash), "size_limit: 1KiB"}, true, false, ""},
		{"another user came", []string{offered + people("ann", hash)}, []string{required + people("bob", other, "ann", hash)}, true, false, ""},
		{"its user is gone", []string{offered + people("ann", hash)}, []string{offered + people("bob", hash)}, true, false, gone},
		{"its user has another password", []string{offered + people("ann", hash)}, []string{offered + people("ann", other)}, true, false, gone},
		{"AUTH is gone", []string{offered + people("ann", hash)}, nil, true, false, gone},
		{"AUTH is required", []string{offered + people("ann", hash)}, []string{required + people("ann", hash)}, false, false, first},
		{"AUTH is required and was not offered", nil, []string{required + people("ann", hash)}, false, false, gone},
		{"AUTH is required and offered in TLS only", []string{starttls, strings.Replace(offered, "true", "false", 1) + people("ann", hash)},
			[]string{starttls, required + people("ann", hash)}, false, false, next},
		{"TLS is required", []string{starttls}, []string{needed}, false, false, next},
		{"TLS is required and was not offered", nil, []string{needed}, false, false, gone},
		{"TLS is required, and there", []string{starttls}, []string{needed}, false, true, ""},
		{"TLS is gone", []string{starttls}, nil, false, true, ""},
		{"its network is still allowed", []string{"allow: [127.0.0.1]"}, []string{"allow: [127.0.0.0/30]"}, false, false, ""},
		{"its network is not allowed any more", nil, []string{"allow: [127.0.0.2]"}, false, false, gone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := port(t)
			h.must(h.apply(h.config(entry("a", address, tt.old...))))
			c := greeted(t, smtptest.Dial(t, address))
			if tt.tls {
				upgraded(t, c, &tls.Config{InsecureSkipVerify: true})
			}
			if tt.user {
				if r := c.Do("AUTH PLAIN " + plain("ann", "right")); r.Code() != 235 {
					t.Fatal(r)
				}
			}
			if r := mails(c); r.Code() != 250 {
				t.Errorf("before: %q", r)
			}
			h.must(h.apply(h.config(entry("renamed", address, tt.now...))))
			if r := c.Do("MAIL FROM:<ann@client.example>"); r != tt.want && (tt.want != "" || r.Code() != 250) {
				t.Errorf("%q, want %q", r, tt.want)
			}
			if tt.want == gone {
				c.WantEnd()
			}
		})
	}
}

func TestAfter_a_swap_of_listeners_a_user_of_one_is_nobody_at_the_other(t *testing.T) {
	auth := func(hash string) string {
		return fmt.Sprintf("auth: {allow_plaintext: true, users: [{name: app, password_hash: %q}]}", hash)
	}
	mine, theirs := hashOf(t, "right"), hashOf(t, "right")
	one, two := port(t), port(t)
	h := newHouse(t, entry("mine", one, auth(mine))+entry("theirs", two, auth(theirs)))
	c := greeted(t, smtptest.Dial(t, one))
	if r := c.Do("AUTH PLAIN " + plain("app", "right")); r.Code() != 235 {
		t.Fatal(r)
	}
	swap := entry("mine", two, auth(mine)) + entry("theirs", one, auth(theirs))
	h.must(h.apply(h.config(swap)))
	if r := c.Do("MAIL FROM:<ann@client.example>"); r.Code() != 421 {
		t.Errorf("%q", r)
	}
}

func TestA_PROXY_header_tells_the_client_before_anything_else_happens(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	certs.NewAuthority(t).Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	clear, implicit, both := port(t), port(t), port(t)
	proxy, allow := "proxy_protocol: [127.0.0.1/32]", "allow: [192.0.2.0/24]"
	h.must(h.apply(h.config(entry("clear", clear, proxy, allow) + entry("both", both, proxy) + entry("implicit", implicit, proxy, allow,
		fmt.Sprintf("tls: {mode: implicit, cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}", h.dir)))))
	const v1, v2 = "PROXY TCP4 192.0.2.7 127.0.0.1 4000 25\r\n", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x0f\xa0\x00\x19"
	for _, header := range []string{v1, v2} {
		c := smtptest.Dial(t, clear)
		c.Send(header)
		if r := mails(greeted(t, c)); r.Code() != 250 {
			t.Errorf("%q", r)
		}
		if got := h.theClient(t, clear); got != "192.0.2.7:4000" {
			t.Errorf("the client is %s", got)
		}
		c.Do("QUIT")
		c = smtptest.Dial(t, implicit)
		c.Send(header)
		if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
			t.Error(err)
		}
		if r := mails(greeted(t, c)); r.Code() != 250 {
			t.Errorf("in TLS: %q", r)
		}
		c = smtptest.Dial(t, clear)
		c.Send(header + "EHLO client.example\r\n")
		c.Want("554 5.5.0 Spoke before the greeting")
		c.WantEnd()
	}
	for name, header := range map[string]string{
		"a client that is not allowed": "PROXY TCP4 198.51.100.7 127.0.0.1 4000 25\r\n",
		"the proxy itself":             "PROXY UNKNOWN\r\n",
		"the proxy's own, version 2":   "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
	} {
		c := smtptest.Dial(t, clear)
		c.Send(header)
		if r := c.Reply(); r.Code() != 554 {
			t.Errorf("%s: %q", name, r)
		}
		c = smtptest.Dial(t, implicit)
		c.Send(header)
		c.WantEnd()
	}
	c := smtptest.Dial(t, both)
	c.Send("PROXY UNKNOWN\r\n")
	if r := mails(greeted(t, c)); r.Code() != 250 || h.theClient(t, both) != c.LocalAddr().String() {
		t.Errorf("the proxy itself, where everybody may come: %q, client %s", r, h.theClient(t, both))
	}
	c.Do("QUIT")
	if r := mails(greeted(t, from(t, "127.0.0.2", both))); r.Code() != 250 {
		t.Errorf("a client that is no proxy: %q", r)
	}
	c = from(t, "127.0.0.2", both)
	c.Want("220 mx.example ESMTP lsmtpd")
	if r := c.Do(strings.TrimSuffix(v1, "\r\n")); r.Code() != 500 {
		t.Errorf("a header of one that is no proxy: %q", r)
	}
}

// theClient is the address of the only client that a listener has, which has sent a mail.
func (h *house) theClient(t testing.TB, listener string) string {
	t.Helper()
	var all []*session
	eventually(t, "there is one session", func() bool {
		all = slices.DeleteFunc(h.sessions.all(), func(s *session) bool { return s.address != listener })
		return len(all) == 1
	})
	return clientText(all[0].client)
}

func TestWithout_its_header_a_proxys_connection_is_closed_without_a_word(t *testing.T) {
	address, plain := port(t), port(t)
	h := newHouse(t, entry("a", address, "proxy_protocol: [127.0.0.0/8]")+entry("b", plain))
	for name, octets := range map[string]string{
		"mail": "EHLO client.example\r\n", "TLS": "\x16\x03\x01\x02\x00", "a bad header": "PROXY TCP4 nobody 127.0.0.1 1 2\r\n", "nothing": "",
	} {
		c := smtptest.Dial(t, address)
		c.Send(octets)
		c.CloseWrite()
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		b, err := io.ReadAll(c.Client.Conn)
		if _, reset := errors.AsType[*net.OpError](err); len(b) > 0 || err != nil && !reset {
			t.Errorf("%s is answered %q, %v", name, b, err)
		}
	}
	waiting := smtptest.Dial(t, address)
	eventually(t, "it is a session", func() bool { return h.sessions.len() == 1 })
	other := smtptest.Dial(t, address) // nobody waits for it
	other.Send("PROXY UNKNOWN\r\n")
	if r := mails(greeted(t, other)); r.Code() != 250 {
		t.Error(r)
	}
	h.must(h.apply(h.config(entry("b", plain))))
	waiting.Want("421 4.3.2 Service not available, closing")
	waiting.WantEnd()
}

// tcp is a connection, perhaps of a bubble, that seems to come from an address of TCP.
type tcp struct{ net.Conn }

func (tcp) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000} }

func TestA_proxy_has_half_a_minute_for_its_header_and_less_when_the_session_is_to_end(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		name        string
		leave, took time.Duration // leave: when the session is asked to end
		err         error
	}{
		{"nothing comes", time.Hour, proxyWait, os.ErrDeadlineExceeded},
		{"it is asked to end", time.Second, time.Second, nil},
		{"it was asked to end before", 0, 0, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			g := &Gateway{}
			g.running.Store(&running{})
			s := &session{gateway: g, conn: tcp{server}, listener: &listener{state: &state{}, Listener: &routes.Listener{Listener: &config.Listener{ProxyProtocol: networks}}}}
			s.smtp = smtp.NewSession(s.conn, &smtp.Settings{}, s)
			defer time.AfterFunc(tt.leave, s.drain).Stop()
			if tt.leave == 0 {
				s.drain()
			}
			begun := time.Now()
			err := s.readProxyHeader(&smtp.Client{Addr: netip.MustParseAddrPort("127.0.0.1:4000")})
			if took := time.Since(begun); !errors.Is(err, tt.err) || took != tt.took {
				t.Errorf("%s: after %v, %v", tt.name, took, err)
			}
		})
	}
}

func TestPlaintext_behind_STARTTLS_is_counted_and_so_is_how_long_certificates_last(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	ca := certs.NewAuthority(t)
	ca.Issue(t, 11, "mx.example").Write(t, h.dir+"/one")
	address := port(t)
	h.must(h.apply(h.config(entry("a", address, fmt.Sprintf("tls: {cert_file: %[1]s/one.pem, key_file: %[1]s/one.key}", h.dir)) + entry("b", port(t)))))
	c := greeted(t, smtptest.Dial(t, address))
	c.Send("STARTTLS\r\nMAIL FROM:<eve@client.example>\r\n")
	c.Want("220 2.0.0 Ready to start TLS")
	c.WantEnd()
	eventually(t, "it is counted", func() bool { return h.Status().Listeners[0].Injections == 1 })
	s := h.Status().Listeners
	if until := s[0].CertificateUntil; until == nil || until.Year() != 2100 || s[1].CertificateUntil != nil || s[1].Injections != 0 {
		t.Errorf("status %+v", s)
	}
}
