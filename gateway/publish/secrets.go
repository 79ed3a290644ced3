package publish

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// credentials are what we show the broker. Who has a client certificate and names no user may be known by that.
func credentials(c *config.AMQP, uri amqp.URI) []amqp.Authentication {
	plain := &amqp.PlainAuth{Username: cmp.Or(c.Username, uri.Username), Password: cmp.Or(password(c), uri.Password)}
	byCertificate := uri.Scheme == "amqps" && c.TLS != nil && c.TLS.CertFile != ""
	nameless := c.Username == "" && uri.Username == guest.Username && uri.Password == guest.Password
	if byCertificate && nameless {
		return []amqp.Authentication{&amqp.ExternalAuth{}, plain}
	}
	return []amqp.Authentication{plain}
}

// guest is who a URL without a user means.
var guest, _ = amqp.ParseURI("amqp://localhost")

// password is what the file holds now: it may have been replaced since the configuration was read, and the old one be void.
func password(c *config.AMQP) string {
	if c.PasswordFile == "" {
		return c.Password
	}
	now, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return c.Password
	}
	return cmp.Or(string(bytes.TrimSuffix(bytes.TrimSuffix(now, []byte("\n")), []byte("\r"))), c.Password)
}

// clientTLS is for a connection to the broker, made of what the files hold now; c may be nil. The errors name the key.
func clientTLS(c *config.AMQPTLS) (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if c == nil {
		return settings, nil
	}
	settings.ServerName = c.ServerName
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("amqp.tls.ca_file: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("amqp.tls.ca_file holds no certificate in PEM form")
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("amqp.tls.cert_file: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}
