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

// clientTLS is for a connection to the broker, made of what the files hold now, and where they hold nothing good, of what they did
// when the configuration was read; c may be nil. The errors name the key.
func clientTLS(c *config.AMQPTLS) (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if c == nil {
		return settings, nil
	}
	settings.ServerName = c.ServerName
	if c.CAFile != "" {
		var err error
		if settings.RootCAs, err = authorities(c.CAFile); err != nil && c.CAs == nil {
			return nil, fmt.Errorf("amqp.tls.ca_file %w", err)
		}
		settings.RootCAs = cmp.Or(settings.RootCAs, c.CAs)
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		switch {
		case err != nil && c.Pair.Certificate == nil:
			return nil, fmt.Errorf("amqp.tls.cert_file: %w", err)
		case err != nil:
			pair = c.Pair // a file may be replaced right now, and the other not yet
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

// authorities are what a file holds.
func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("holds no certificate in PEM form")
	}
	return pool, nil
}
