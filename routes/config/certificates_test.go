package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

// certificate is a new certificate and its key in PEM form, which sign themselves until 2040.
func certificate(t testing.TB, serial int64, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{name},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", secret)
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestCertificates_are_loaded_with_the_file_in_their_order(t *testing.T) {
	support(t)
	a, aKey := certificate(t, 1, "a.example")
	b, bKey := certificate(t, 2, "b.example")
	ca, _ := certificate(t, 3, "ca.example")
	write(t, map[string]string{
		"a.pem": a, "a.key": aKey, "b.pem": b, "b.key": bKey, "ca.pem": ca,
		"lsmtpd.yaml": `
listeners:
- {name: one, address: ":1", tls: {cert_file: a.pem, key_file: a.key, client_ca_file: ca.pem}}
- {name: several, address: ":2", tls: {certificates: [{cert_file: b.pem, key_file: b.key}, {cert_file: a.pem, key_file: a.key}]}}
`[1:],
	})
	c, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	one, several := c.Listeners[0].TLS, c.Listeners[1].TLS
	if len(one.Pairs) != 1 || one.Pairs[0].Leaf.SerialNumber.Int64() != 1 || one.ClientCAs == nil || one.ClientAuth != "require" {
		t.Errorf("one: %d pairs, %v", len(one.Pairs), one)
	}
	if len(several.Pairs) != 2 || several.Pairs[0].Leaf.SerialNumber.Int64() != 2 || several.Pairs[1].Leaf.SerialNumber.Int64() != 1 || several.ClientCAs != nil {
		t.Errorf("several: %d pairs, %v", len(several.Pairs), several)
	}
}

func TestA_pair_that_does_not_match_is_told_at_its_entry(t *testing.T) {
	support(t)
	a, aKey := certificate(t, 1, "a.example")
	_, otherKey := certificate(t, 2, "a.example")
	write(t, map[string]string{
		"a.pem": a, "a.key": aKey, "other.key": otherKey,
		"lsmtpd.yaml": `
listeners:
- {name: one, address: ":1", tls: {cert_file: a.pem, key_file: other.key}}
- name: several
  address: ":2"
  tls:
    certificates:
    - {cert_file: a.pem, key_file: a.key}
    - {cert_file: a.pem, key_file: other.key}
`[1:],
	})
	_, err := Read("lsmtpd.yaml")
	const why = "the certificate and its key do not load: private key does not match public key"
	want := "lsmtpd.yaml:2:47: listeners[0].tls.cert_file: " + why + " [listener one]\n" +
		"lsmtpd.yaml:8:19: listeners[1].tls.certificates[1].cert_file: " + why + " [listener several]"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestDiff_tells_of_certificates_that_were_replaced_in_their_files(t *testing.T) {
	support(t)
	put := func(name string, serial int64) {
		cert, key := certificate(t, serial, name)
		for suffix, content := range map[string]string{".pem": cert, ".key": key} {
			if err := os.WriteFile(name+suffix, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, map[string]string{"lsmtpd.yaml": `
listeners:
- {name: one, address: ":1", tls: {cert_file: a.pem, key_file: a.key, client_ca_file: ca.pem}}
- {name: several, address: ":2", tls: {certificates: [{cert_file: b.pem, key_file: b.key}, {cert_file: a.pem, key_file: a.key}]}}
`[1:]})
	put("a", 10)
	put("b", 11)
	put("ca", 12)
	old, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	put("a", 255)
	put("ca", 13)
	if !old.Sources.Changed() {
		t.Error("the sources are as they were")
	}
	now, err := Read("lsmtpd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := `
listeners[one].tls.cert_file lsmtpd.yaml:2:47 session: serial a, valid until 2040-01-01 -> serial ff, valid until 2040-01-01
listeners[one].tls.client_ca_file lsmtpd.yaml:2:87 session: ca.pem -> ca.pem
listeners[several].tls.certificates[1].cert_file lsmtpd.yaml:3:104 session: serial a, valid until 2040-01-01 -> serial ff, valid until 2040-01-01
`
	if got := lines(Diff(old, now)); got != strings.TrimPrefix(want, "\n") {
		t.Errorf("got\n%swant%s", got, want)
	}
}

func TestDiff_tells_of_what_the_connection_to_the_broker_shows_and_trusts(t *testing.T) {
	put := func(name string, serial int64) {
		cert, key := certificate(t, serial, name)
		for suffix, content := range map[string]string{".pem": cert, ".key": key} {
			if err := os.WriteFile(name+suffix, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, map[string]string{"lsmtpd.yaml": "amqp: {tls: {ca_file: ca.pem, cert_file: a.pem, key_file: a.key}}\n" + smallest})
	load := func() *Config {
		c, err := Read("lsmtpd.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	put("a", 10)
	put("ca", 11)
	old := load()
	if again := load(); len(Diff(old, again)) != 0 || !old.AMQP.TLS.Same(again.AMQP.TLS) {
		t.Errorf("nothing changed, and it tells\n%s", lines(Diff(old, again)))
	}
	put("a", 255)
	now := load()
	const certificate = "amqp.tls.cert_file lsmtpd.yaml:1:42 live: serial a, valid until 2040-01-01 -> serial ff, valid until 2040-01-01\n"
	if got := lines(Diff(old, now)); got != certificate || old.AMQP.TLS.Same(now.AMQP.TLS) {
		t.Errorf("got\n%swant\n%s", got, certificate)
	}
	old = now
	put("ca", 12)
	now = load()
	if got, want := lines(Diff(old, now)), "amqp.tls.ca_file lsmtpd.yaml:1:23 live: ca.pem -> ca.pem\n"; got != want || old.AMQP.TLS.Same(now.AMQP.TLS) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	var none *AMQPTLS
	if !none.Same(nil) || none.Same(now.AMQP.TLS) || now.AMQP.TLS.Same(nil) {
		t.Error("no TLS is taken for some")
	}
}
