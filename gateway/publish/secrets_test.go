package publish

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/certs"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes/config"
)

// authority signs the certificates of brokers and of their clients.
type authority struct {
	*certs.Authority
	t    *testing.T
	file string // its own
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{certs.NewAuthority(t), t, filepath.Join(t.TempDir(), "ca.pem")}
	certs.Write(t, a.file, a.PEM)
	return a
}

// broker is one for 127.0.0.1, and for broker.example, that asks clients for a certificate as auth says.
func (a *authority) broker(auth tls.ClientAuthType) *amqptest.Broker {
	a.t.Helper()
	return amqptest.StartTLS(a.t, a.Server(a.t, auth, "127.0.0.1", "broker.example"))
}

// client is for who trusts a and is called name.
func (a *authority) client(name string) *config.AMQPTLS {
	a.t.Helper()
	base := filepath.Join(filepath.Dir(a.file), name)
	a.Issue(a.t, 2, name).Write(a.t, base)
	return &config.AMQPTLS{CAFile: a.file, CertFile: base + ".pem", KeyFile: base + ".key"}
}

func TestABrokerIsReachedByTLSWithAClientCertificate(t *testing.T) {
	a := newAuthority(t)
	broker := a.broker(tls.RequireAndVerifyClientCert)
	c := settings(strings.Replace(broker.URL(), "guest:guest@", "", 1))
	c.TLS = a.client("gateway")
	p := start(t, c, "x")
	must(t, p, delivery("x", "small"), Confirmed)
	must(t, p, large("x", "large"), Confirmed)
	for _, l := range broker.Logins() {
		if l.User != "gateway" {
			t.Errorf("known as %q", l.User)
		}
	}
}

func TestWhyTLSWithABrokerFailsIsToldAndNoSecretIs(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	broker, plain := a.broker(tls.RequireAndVerifyClientCert), amqptest.Start(t)
	good, foreign := a.client("gateway"), other.client("gateway")
	for _, c := range []struct {
		name, addr string
		change     func(*config.AMQPTLS)
		want       string
	}{
		{"nothing is wrong", broker.Addr(), func(*config.AMQPTLS) {}, ""},
		{"the name is another, and is named", broker.Addr(), func(t *config.AMQPTLS) { t.ServerName = "broker.example" }, ""},
		{"another authority", broker.Addr(), func(t *config.AMQPTLS) { t.CAFile = other.file }, "shows a certificate that is not trusted"},
		{"another name", broker.Addr(), func(t *config.AMQPTLS) { t.ServerName = "other.example" }, "shows a certificate that is not trusted"},
		{"no certificate of ours", broker.Addr(), func(t *config.AMQPTLS) { t.CertFile, t.KeyFile = "", "" }, "requires a certificate of ours"},
		{"a certificate of another authority", broker.Addr(), func(t *config.AMQPTLS) { t.CertFile, t.KeyFile = foreign.CertFile, foreign.KeyFile },
			"refuses our certificate, amqp.tls.cert_file: unknown certificate authority"},
		{"no such file", broker.Addr(), func(t *config.AMQPTLS) { t.CAFile = "none" }, "is not asked: amqp.tls.ca_file"},
		{"no TLS there", plain.Addr(), func(*config.AMQPTLS) {}, "does not speak TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := settings("amqps://guest:guest@" + c.addr + "/")
			files := *good
			c.change(&files)
			settings.TLS = &files
			for range 20 { // an alert races with what ends the connection
				conn, _, err := Dial(t.Context(), settings, "test")
				if err == nil {
					conn.Close()
				}
				if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				if err != nil && strings.Contains(err.Error(), "guest") {
					t.Errorf("a secret in %v", err)
				}
			}
		})
	}
}

func TestAPasswordThatIsReplacedInItsFileIsUsedAtTheNextConnection(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Require(amqptest.Login{User: "mailer", Password: "old"})
	file := filepath.Join(t.TempDir(), "password")
	write := func(secret string) {
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	c := settings(strings.Replace(broker.URL(), "guest:guest", "mailer:unused", 1))
	c.PasswordFile, c.Password = file, "old"
	p := start(t, c, "x")
	must(t, p, delivery("x", "before"), Confirmed)
	write("new")
	broker.Require(amqptest.Login{User: "mailer", Password: "new"})
	must(t, p, large("x", "by the second connection"), Confirmed)
	broker.CloseConnections(320, "CONNECTION_FORCED - broker is restarting")
	until(t, patience, func() bool { return len(broker.Logins()) == 3 })
	if err := p.AwaitAvailable(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	must(t, p, delivery("x", "after"), Confirmed)
	for i, want := range []string{"old", "new", "new"} {
		if got := broker.Logins()[i]; got.User != "mailer" || got.Password != want {
			t.Errorf("login %d is %v", i+1, got)
		}
	}
}

func TestCertificatesWhoseFilesGoBadAreWhatTheyWereWhenTheConfigurationWasRead(t *testing.T) {
	a := newAuthority(t)
	broker := a.broker(tls.RequireAndVerifyClientCert)
	c := settings(broker.URL())
	c.TLS = a.client("gateway")
	var err error
	if c.TLS.Pair, err = tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile); err != nil {
		t.Fatal(err)
	}
	c.TLS.CAs = a.Pool()
	p := start(t, c, "x")
	certs.Write(t, c.TLS.CAFile, nil)
	certs.Write(t, c.TLS.KeyFile, a.Issue(t, 3, "gateway").Key) // and not yet its certificate
	must(t, p, large("x", "by the second connection"), Confirmed)
}

func TestAnotherPasswordIsAnotherConnection(t *testing.T) {
	broker := amqptest.Start(t)
	broker.Require(amqptest.Login{User: "mailer", Password: "old"})
	c := settings(broker.URL())
	c.Username, c.Password = "mailer", "old"
	p := start(t, c, "x")
	broker.Require(amqptest.Login{User: "mailer", Password: "new"})
	rotated := *c
	rotated.Password = "wrong"
	if _, err := p.Prepare(t.Context(), &rotated); err == nil || !strings.Contains(err.Error(), "the connection in use stays") {
		t.Errorf("a wrong password: %v", err)
	}
	rotated.Password = "new"
	change, err := p.Prepare(t.Context(), &rotated)
	if err != nil {
		t.Fatal(err)
	}
	change.Verify([]string{"x"})
	change.Commit()
	must(t, p, delivery("x", "k"), Confirmed)
	if n := broker.Published()[0].Connection; n != 3 {
		t.Errorf("published by connection %d", n)
	}
}

func TestRabbitMQ_takes_our_certificate_or_it_is_told_that_it_does_not(t *testing.T) {
	port, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	a, other := newAuthority(t), newAuthority(t)
	base := filepath.Join(filepath.Dir(a.file), "broker")
	a.Issue(t, 1, "127.0.0.1").Write(t, base)
	rabbit.New(t, rabbit.Options{Config: []string{
		fmt.Sprintf("listeners.ssl.default = 127.0.0.1:%d", port),
		"ssl_options.cacertfile = " + a.file, "ssl_options.certfile = " + base + ".pem", "ssl_options.keyfile = " + base + ".key",
		"ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true",
		"ssl_options.versions.1 = tlsv1.3", "ssl_options.versions.2 = tlsv1.2",
	}})
	until(t, patience, func() bool { // it listens there later than in clear
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	good, foreign := a.client("gateway"), other.client("gateway")
	for _, c := range []struct{ cert, key, want string }{
		{good.CertFile, good.KeyFile, ""},
		{foreign.CertFile, foreign.KeyFile, "refuses our certificate, amqp.tls.cert_file: unknown certificate authority"},
		{"", "", "requires a certificate of ours, amqp.tls.cert_file, from an authority that it names"},
	} {
		settings := settings(fmt.Sprintf("amqps://guest:guest@127.0.0.1:%d/", port))
		settings.Username = "guest" // PLAIN: the plugin for EXTERNAL is not enabled
		settings.TLS = &config.AMQPTLS{CAFile: a.file, CertFile: c.cert, KeyFile: c.key}
		for range 5 {
			conn, _, err := Dial(t.Context(), settings, "test")
			if err == nil {
				conn.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		}
	}
}
