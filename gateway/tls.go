package gateway

import (
	"crypto/tls"
	"slices"
	"time"

	"lsmtpd/routes/config"
)

// tlsConfig is what a listener's handshakes follow; nil where c is. Each listener has its own, and of several certificates the
// first that bears the name the client asks for is shown, else the first. There are no tickets: some large senders break on
// them at port 25, and none shall be good for another listener.
func tlsConfig(c *config.TLS) *tls.Config {
	if c == nil {
		return nil
	}
	t := &tls.Config{Certificates: c.Pairs, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, ClientCAs: c.ClientCAs}
	if c.MinVersion == "1.3" {
		t.MinVersion = tls.VersionTLS13
	}
	switch c.ClientAuth {
	case "require":
		t.ClientAuth = tls.RequireAndVerifyClientCert
	case "request":
		t.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return t
}

// certificateUntil is when the first of a listener's certificates ends; nil where it has none.
func certificateUntil(c *config.TLS) *time.Time {
	if c == nil {
		return nil
	}
	first := slices.MinFunc(c.Pairs, func(a, b tls.Certificate) int { return a.Leaf.NotAfter.Compare(b.Leaf.NotAfter) })
	return &first.Leaf.NotAfter
}
