package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
	"gopkg.in/yaml.v3"
)

// maxSecret is the longest password that a file may hold, in octets.
const maxSecret = 4096

const notAURL = "is not an AMQP URL (like amqp://user:password@host:5672/vhost, where blanks and signs in the password are written like %20 and %2F)"

// setURL checks an AMQP URL. No message holds any of it: it carries a password, and what is wrong may be its quoting.
func setURL(_ *decoder, v reflect.Value, text string, _ *field) string {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "amqp" && u.Scheme != "amqps" {
		return notAURL
	}
	if port := u.Port(); port != "" {
		if n, ok := parseCount(port); !ok || n < 1 || n > 65535 {
			return "is an AMQP URL whose port is not from 1 to 65535"
		}
	}
	if _, err := amqp.ParseURI(text); err != nil { // who dials it is stricter than net/url
		return notAURL
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "is an AMQP URL with a ? or #: options are keys of amqp: here, and in a password these signs are %3F and %23"
	}
	if strings.Contains(strings.TrimPrefix(u.EscapedPath(), "/"), "/") {
		return "is an AMQP URL whose virtual host holds a slash: write it %2F"
	}
	v.SetString(text)
	return ""
}

func setShortString(_ *decoder, v reflect.Value, text string, _ *field) string {
	if len(text) > maxShortString {
		return "is over 255 octets, more than AMQP takes"
	}
	v.SetString(text)
	return ""
}

// setTemplate checks the length of what holds no {name}; the rest only its rendering shows.
func setTemplate(d *decoder, v reflect.Value, text string, f *field) string {
	if !strings.Contains(text, "{") {
		return setShortString(d, v, text, f)
	}
	v.SetString(text)
	return ""
}

// showURL writes a URL without its password, and without what stands behind a "?".
func showURL(v reflect.Value) string {
	u, err := url.Parse(v.String())
	if err != nil {
		return masked
	}
	shown := u.Scheme + "://"
	if u.User != nil {
		shown += u.User.Username() + ":" + masked + "@"
	}
	return shown + u.Host + u.EscapedPath()
}

// setNamed checks the name of something that is on the broker, perhaps already.
func setNamed(d *decoder, v reflect.Value, text string, f *field) string {
	if text == "" {
		return "is no name"
	}
	return setShortString(d, v, text, f)
}

// setDeclared checks the name of something to declare.
func setDeclared(d *decoder, v reflect.Value, text string, f *field) string {
	if strings.HasPrefix(text, "amq.") {
		return "begins with amq., which the broker keeps for itself: choose another name"
	}
	return setNamed(d, v, text, f)
}

func setExchangeType(d *decoder, v reflect.Value, text string, f *field) string {
	types := []string{"direct", "fanout", "topic", "headers"}
	if !strings.HasPrefix(text, "x-") && !slices.Contains(types, text) {
		return "is not " + orList(types) + ", nor a plugin's that begins with x-" + DidYouMean(text, types)
	}
	return setShortString(d, v, text, f)
}

// check tells what is declared twice.
func (t *Topology) check(d *decoder, n *yaml.Node, key string) {
	exchanges, queues := map[string]bool{}, map[string]bool{}
	for i, e := range t.Exchanges {
		d.twice(n, exchanges, e.Name, key+".exchanges["+strconv.Itoa(i)+"].name")
	}
	for i, q := range t.Queues {
		d.twice(n, queues, q.Name, key+".queues["+strconv.Itoa(i)+"].name")
	}
}

// twice tells a name that was seen before.
func (d *decoder) twice(n *yaml.Node, seen map[string]bool, name, key string) {
	if seen[name] && name != "" {
		d.faultAt(n, key, quote(name)+" is there twice")
	}
	seen[name] = true
}

// check reads the password, and tells what does not go together.
func (a *AMQP) check(d *decoder, n *yaml.Node, key string) {
	if len(a.URLs) == 0 {
		d.faultAt(n, key+".urls", "is an empty list: give a broker's URL, or leave the key out")
	}
	if a.PasswordFile == "" {
		return
	}
	secret, err := d.files.read(a.PasswordFile)
	if err != nil {
		d.faultAt(n, key+".password_file", a.PasswordFile+" "+err.Error())
		return
	}
	secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	if len(secret) == 0 || len(secret) > maxSecret || control(string(secret)) {
		d.faultAt(n, key+".password_file", a.PasswordFile+" does not hold one line with a password")
		return
	}
	a.Password = string(secret)
}

// check loads the certificates, and tells files that do not go together.
func (t *AMQPTLS) check(d *decoder, n *yaml.Node, key string) {
	d.checkHalves(n, key)
	t.Pair, _ = d.checkPair(n, key, t.CertFile, t.KeyFile)
	if t.CAFile != "" {
		t.CAs = d.checkAuthorities(n, key+".ca_file", t.CAFile)
	}
}

// Same tells whether the broker sees the same of t and o, and is trusted the same: what their files held counts, too. Both may be nil.
func (t *AMQPTLS) Same(o *AMQPTLS) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.CAFile == o.CAFile && t.CertFile == o.CertFile && t.KeyFile == o.KeyFile && t.ServerName == o.ServerName &&
		t.CAs.Equal(o.CAs) && sameCertificate(&t.Pair, &o.Pair)
}

// sameCertificate compares what is shown of two pairs; there is only one key to each.
func sameCertificate(a, b *tls.Certificate) bool {
	return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal)
}

// checkHalves tells a certificate without its key, and a key without its certificate.
func (d *decoder) checkHalves(n *yaml.Node, key string) {
	if d.wrote(key+".cert_file") != d.wrote(key+".key_file") {
		d.faultAt(n, key, "needs both cert_file and key_file, or neither")
	}
}

// checkPair loads a pair, or tells why it does not load. key is where cert_file and key_file are.
func (d *decoder) checkPair(n *yaml.Node, key, certFile, keyFile string) (pair tls.Certificate, loaded bool) {
	if certFile == "" || keyFile == "" {
		return pair, false
	}
	cert, err := d.files.read(certFile)
	if err != nil {
		d.faultAt(n, key+".cert_file", certFile+" "+err.Error())
	}
	secret, err2 := d.files.read(keyFile)
	if err2 != nil {
		d.faultAt(n, key+".key_file", keyFile+" "+err2.Error())
	}
	if err != nil || err2 != nil {
		return pair, false
	}
	if pair, err = tls.X509KeyPair(cert, secret); err != nil {
		d.faultAt(n, key+".cert_file", "the certificate and its key do not load: "+strings.TrimPrefix(err.Error(), "tls: "))
	}
	return pair, err == nil
}

// checkAuthorities loads the certificates of a file, or tells that it holds none.
func (d *decoder) checkAuthorities(n *yaml.Node, key, file string) *x509.CertPool {
	content, err := d.files.read(file)
	if err != nil {
		d.faultAt(n, key, file+" "+err.Error())
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		d.faultAt(n, key, file+" holds no certificate in PEM form")
	}
	return pool
}
