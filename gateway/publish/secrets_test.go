package publish

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/routes/config"
)

// authority signs certificates, and writes them into files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate, and the files NAME.crt and NAME.key. The first one is the authority's own.
func (a *authority) sign(name string, c *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if a.cert == nil {
		a.cert, a.key = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == c {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.path(name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// brokerTLS is a broker's, for 127.0.0.1, that asks for a client's certificate where auth says so.
func (a *authority) brokerTLS(auth tls.ClientAuthType) *tls.Config {
	pair := a.sign("broker", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"broker.example"}})
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: auth}
}

func TestABrokerIsReachedByTLSWithAClientCertificate(t *testing.T) {
	a := newAuthority(t)
	a.sign("gateway", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	broker := amqptest.StartTLS(t, a.brokerTLS(tls.RequireAndVerifyClientCert))
	c := settings(strings.Replace(broker.URL(), "guest:guest@", "", 1))
	c.TLS = &config.AMQPTLS{CAFile: a.path("ca.crt"), CertFile: a.path("gateway.crt"), KeyFile: a.path("gateway.key")}
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
	broker := amqptest.StartTLS(t, a.brokerTLS(tls.RequireAndVerifyClientCert))
	plain := amqptest.Start(t)
	a.sign("gateway", &x509.Certificate{})
	good := config.AMQPTLS{CAFile: a.path("ca.crt"), CertFile: a.path("gateway.crt"), KeyFile: a.path("gateway.key")}
	for _, c := range []struct {
		name, addr string
		change     func(*config.AMQPTLS)
		want       string
	}{
		{"nothing is wrong", broker.Addr(), func(*config.AMQPTLS) {}, ""},
		{"the name is another, and is named", broker.Addr(), func(t *config.AMQPTLS) { t.ServerName = "broker.example" }, ""},
		{"another authority", broker.Addr(), func(t *config.AMQPTLS) { t.CAFile = other.path("ca.crt") }, "shows a certificate that is not trusted"},
		{"another name", broker.Addr(), func(t *config.AMQPTLS) { t.ServerName = "other.example" }, "shows a certificate that is not trusted"},
		{"no certificate of ours", broker.Addr(), func(t *config.AMQPTLS) { t.CertFile, t.KeyFile = "", "" }, "refuses our side of TLS|closed the connection"}, // whichever of its alert and its RST is seen first
		{"no such file", broker.Addr(), func(t *config.AMQPTLS) { t.CAFile = a.path("none") }, "is not asked: amqp.tls.ca_file"},
		{"no TLS there", plain.Addr(), func(*config.AMQPTLS) {}, "does not speak TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := settings("amqps://guest:guest@" + c.addr + "/")
			files := good
			c.change(&files)
			settings.TLS = &files
			conn, _, err := Dial(t.Context(), settings, "test")
			if err == nil {
				conn.Close()
			}
			told := err == nil && c.want == ""
			for want := range strings.SplitSeq(c.want, "|") {
				told = told || err != nil && want != "" && strings.Contains(err.Error(), want)
			}
			if !told {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "guest") {
				t.Errorf("a secret in %v", err)
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
