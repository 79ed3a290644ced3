// Package certs makes certificate authorities for tests, and the certificates that they sign. It does not know what they are
// shown for.
package certs

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
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	PEM []byte // its own certificate

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Pair is a certificate and its key in PEM form.
type Pair struct{ Cert, Key []byte }

// NewAuthority returns a new one, which nobody trusts yet.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t)}
	template := certificate(1)
	template.Subject = pkix.Name{CommonName: "Test authority"}
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der := sign(t, template, template, a.key, a.key)
	var err error
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.PEM = encode("CERTIFICATE", der)
	return a
}

// Issue returns a certificate for servers and clients called names, the first of which is its subject. A name may be an IP address.
func (a *Authority) Issue(t testing.TB, serial int64, names ...string) Pair {
	t.Helper()
	key := newKey(t)
	template := certificate(serial)
	template.Subject = pkix.Name{CommonName: names[0]}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{encode("CERTIFICATE", sign(t, template, a.certificate, key, a.key)), encode("PRIVATE KEY", secret)}
}

// Pool is what trusts a.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Server is the TLS of a server called names, which asks clients for a certificate of a's as auth says.
func (a *Authority) Server(t testing.TB, auth tls.ClientAuthType, names ...string) *tls.Config {
	t.Helper()
	own := a.Issue(t, time.Now().UnixNano(), names...).TLS(t)
	return &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: auth, ClientCAs: a.Pool()}
}

// TLS is p as either end shows it.
func (p Pair) TLS(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Write replaces the files base.pem and base.key, each at once.
func (p Pair) Write(t testing.TB, base string) {
	t.Helper()
	Write(t, base+".pem", p.Cert)
	Write(t, base+".key", p.Key)
}

// Write replaces a file at once.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	err := os.WriteFile(path+".new", content, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// certificate is one that is valid now, and on the clock of a bubble.
func certificate(serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, own, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
