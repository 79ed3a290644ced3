package smtp_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/certs"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

var certificate struct {
	sync.Once
	tls.Certificate
}

// certified is a server's side of TLS with a certificate of its own making, the same in all tests.
func certified(t testing.TB) *tls.Config {
	certificate.Do(func() { certificate.Certificate = certs.NewAuthority(t).Issue(t, 1, "mx.example").TLS(t) })
	return &tls.Config{Certificates: []tls.Certificate{certificate.Certificate}, SessionTicketsDisabled: true}
}

// unverified is a client's side of TLS that believes every certificate.
func unverified() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// tlsSettings offer STARTTLS.
func tlsSettings(t testing.TB) *smtp.Settings {
	s := settings()
	s.TLS = certified(t)
	return s
}

// startTLS gets to the 220 of STARTTLS.
func startTLS(t *testing.T, c *smtptest.Conn) {
	t.Helper()
	hello(t, c)
	if r := c.Do("STARTTLS"); r.Code() != 220 {
		t.Fatalf("STARTTLS: %q", r)
	}
}

// rest reads to the end of a connection.
func rest(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("instead of the end: %v", err)
	}
	return string(b)
}

func TestPlaintext_behind_STARTTLS_ends_the_session_and_is_never_run(t *testing.T) {
	const injected = "EHLO injected\r\n" + mailCommand + "\r\n"
	for name, inject := range map[string]func(t *testing.T, c *smtptest.Conn){
		"in one segment": func(t *testing.T, c *smtptest.Conn) {
			hello(t, c)
			c.Send("STARTTLS\r\n" + injected)
			c.Want("220 2.0.0 Ready to start TLS")
		},
		"in the next segment": func(t *testing.T, c *smtptest.Conn) {
			startTLS(t, c)
			c.Send(injected)
		},
		"one octet of it": func(t *testing.T, c *smtptest.Conn) {
			hello(t, c)
			c.Send("STARTTLS\r\n\x16")
			c.Want("220 2.0.0 Ready to start TLS")
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := tcpPair(t)
			o := &owner{}
			s := serve(t, server, tlsSettings(t), o)
			c := smtptest.New(t, client)
			inject(t, c)
			if got := rest(t, client); got != "" {
				t.Errorf("it was answered: %q", got)
			}
			wantErr(t, s, smtp.ErrStartTLSInjection)
			if begun, _ := o.transactions(); begun != 0 || len(o.refused) != 0 {
				t.Errorf("%d transactions, refusals %q", begun, o.refused)
			}
		})
	}
}

func TestA_handshake_that_fails_ends_without_an_octet_in_clear(t *testing.T) {
	newest := certified(t)
	newest.MinVersion = tls.VersionTLS13
	panics := certified(t)
	panics.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("asked for") }
	for name, config := range map[string]*tls.Config{"no version in common": newest, "a panic": panics} {
		for _, implicit := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				client, server := tcpPair(t)
				pinned := tlsSettings(t)
				pinned.TLS, pinned.ImplicitTLS = config, implicit
				s := serve(t, server, pinned, &owner{})
				c := smtptest.New(t, client)
				if !implicit {
					startTLS(t, c)
				}
				heard := &recorder{Conn: client}
				old := unverified()
				old.MaxVersion = tls.VersionTLS12
				if err := tls.Client(heard, old).Handshake(); err == nil {
					t.Error("it succeeded")
				}
				client.(*net.TCPConn).CloseWrite()
				const alert = "\x15"
				if all := heard.octets + rest(t, client); all != "" && !strings.HasPrefix(all, alert) {
					t.Errorf("it heard %q", all)
				}
				err := s.wait()
				if _, panicked := errors.AsType[*smtp.PanicError](err); !panicked && !errors.Is(err, smtp.ErrHandshake) {
					t.Errorf("Serve returned %v", err)
				}
			})
		}
	}
}

// recorder keeps what was read.
type recorder struct {
	net.Conn
	octets string
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.octets += string(p[:n])
	return n, err
}

// bubble runs f with a session over net.Pipe, where time passes only while everybody waits.
func bubble(t *testing.T, pinned *smtp.Settings, o *owner, f func(t *testing.T, c *smtptest.Conn, s *running)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		f(t, smtptest.New(t, client), serve(t, server, pinned, o))
	})
}

func TestA_handshake_lasts_thirty_seconds(t *testing.T) {
	implicit := tlsSettings(t)
	implicit.ImplicitTLS = true
	silent := func(t *testing.T, c *smtptest.Conn, s *running) {
		start := time.Now()
		c.Conn.SetReadDeadline(time.Time{})
		if b, err := io.ReadAll(c.Conn); len(b) > 0 || err != nil {
			t.Errorf("it heard %q, %v", b, err)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("it lasted %v", took)
		}
		wantErr(t, s, smtp.ErrHandshake)
		wantErr(t, s, smtp.ErrTimeout)
	}
	bubble(t, implicit, &owner{}, silent)
	bubble(t, tlsSettings(t), &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		startTLS(t, c)
		silent(t, c, s)
	})
}

func TestDrain_ends_a_handshake_without_a_word(t *testing.T) {
	bubble(t, tlsSettings(t), &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		startTLS(t, c)
		synctest.Wait()
		s.Drain()
		if got := rest(t, c.Conn); got != "" {
			t.Errorf("it heard %q", got)
		}
		wantErr(t, s, nil)
	})
}

func TestDrain_is_told_inside_TLS(t *testing.T) {
	for range 20 {
		client, server := tcpPair(t)
		c := smtptest.New(t, client)
		s := serve(t, server, tlsSettings(t), &owner{})
		startTLS(t, c)
		if err := c.StartTLS(unverified()); err != nil {
			t.Fatal(err)
		}
		c.Do("EHLO client.example")
		s.Drain()
		c.Want("421 4.3.2 Service not available, closing")
		c.WantEnd() // close_notify: a connection that is only cut is no end
		c.Close()
		wantErr(t, s, nil)
	}
}

func TestThe_last_reply_is_read_inside_TLS_whatever_the_client_still_sends(t *testing.T) {
	junk := strings.Repeat("x", 200_000)
	for i := range 50 {
		client, server := tcpPair(t)
		c := smtptest.New(t, client)
		s := serve(t, server, tlsSettings(t), &owner{})
		startTLS(t, c)
		if err := c.StartTLS(unverified()); err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			c.Client.Send(junk)
		}()
		<-sent
		if r := c.Reply(); r != "500 5.5.2 Line too long" {
			t.Fatalf("round %d: %q", i, r)
		}
		c.WantEnd()
		c.Close()
		wantErr(t, s, smtp.ErrLineTooLong)
	}
}

func TestA_transaction_knows_how_its_client_came(t *testing.T) {
	const plain, good = "AUTH PLAIN AGFwcABzZWNyZXQ=", "235 2.7.0 Authenticated"
	for _, test := range []struct {
		hello    string
		lmtp     bool
		tls      bool
		auth     bool
		params   string
		protocol string
	}{
		{"EHLO", false, false, false, "", "ESMTP"},
		{"EHLO", false, true, false, "", "ESMTPS"},
		{"EHLO", false, true, true, "", "ESMTPSA"},
		{"EHLO", false, false, true, "", "ESMTPA"},
		{"HELO", false, true, true, "", "SMTP"},
		{"EHLO", false, true, true, " SMTPUTF8", "UTF8SMTPSA"},
		{"LHLO", true, false, false, "", "LMTP"},
		{"LHLO", true, true, false, "", "LMTPS"},
		{"LHLO", true, true, true, " SMTPUTF8", "UTF8LMTPSA"},
	} {
		t.Run(test.protocol, func(t *testing.T) {
			o := &owner{lmtp: test.lmtp}
			client, server := tcpPair(t)
			pinned := tlsSettings(t)
			pinned.LMTP, pinned.Auth, pinned.AuthPlaintext = test.lmtp, true, true
			serve(t, server, pinned, o)
			c := smtptest.New(t, client)
			c.Reply()
			if test.tls {
				c.Do("STARTTLS")
				if err := c.StartTLS(unverified()); err != nil {
					t.Fatal(err)
				}
			}
			c.Do(test.hello + " client.example")
			if test.auth {
				if r := c.Do(plain); r != good {
					t.Fatalf("%q", r)
				}
			}
			for _, command := range []string{mailCommand + test.params, rcptCommand, "DATA", "a mail\r\n."} {
				if r := c.Do(command); r.Code() >= 400 {
					t.Fatalf("%s: %q", command, r)
				}
			}
			got := o.accepted()[0].client
			if got.Protocol != test.protocol || (got.User == "app") != test.auth || strings.HasPrefix(got.TLS, "TLS1.3 TLS_") != test.tls {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestLeaving_between_mails_inside_TLS_is_no_error(t *testing.T) {
	for _, polite := range []bool{true, false} {
		client, server := tcpPair(t)
		s := serve(t, server, tlsSettings(t), &owner{})
		c := smtptest.New(t, client)
		startTLS(t, c)
		if err := c.StartTLS(unverified()); err != nil {
			t.Fatal(err)
		}
		c.Do("EHLO client.example")
		if polite {
			c.Close()
		}
		client.Close()
		wantErr(t, s, nil)
	}
}

func TestReplies_to_a_batch_leave_in_one_record(t *testing.T) {
	client, server := tcpPair(t)
	serve(t, server, tlsSettings(t), &owner{})
	c := smtptest.New(t, client)
	startTLS(t, c)
	heard := &recorder{Conn: client}
	conn := tls.Client(heard, unverified())
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	heard.octets = ""
	io.WriteString(conn, "EHLO client.example\r\n"+mailCommand+"\r\n"+rcptCommand+"\r\nDATA\r\n")
	lines := bufio.NewScanner(conn)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "354") {
	}
	if n := len(heard.octets); n != 5+int(heard.octets[3])<<8+int(heard.octets[4]) {
		t.Errorf("the replies are not one record: %q", heard.octets)
	}
}
