package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// check loads the certificates, and tells what does not go together, and what is missing.
func (t *TLS) check(d *decoder, n *yaml.Node, key string) {
	several := d.wrote(key + ".certificates")
	switch single := d.wrote(key+".cert_file") || d.wrote(key+".key_file"); {
	case single && several:
		d.faultAt(n, key+".certificates", "is one way to write it, cert_file and key_file another: keep one")
	case !single && (!several || len(t.Certificates) == 0):
		d.faultAt(n, key, "has no certificate: give cert_file and key_file")
	}
	d.checkHalves(n, key)
	t.load(d, n, key, t.CertFile, t.KeyFile)
	for i, p := range t.Certificates {
		t.load(d, n, key+".certificates["+strconv.Itoa(i)+"]", p.CertFile, p.KeyFile)
	}
	if t.ClientCAFile != "" {
		t.ClientCAs = d.checkAuthorities(n, key+".client_ca_file", t.ClientCAFile)
	}
	switch {
	case t.ClientAuth != "" && !d.wrote(key+".client_ca_file"):
		d.faultAt(n, key+".client_auth", "needs client_ca_file: who signs the clients' certificates?")
	case t.ClientAuth == "" && t.ClientCAFile != "":
		t.ClientAuth = "require"
	}
}

// load keeps a pair that loads. key is where its files are named.
func (t *TLS) load(d *decoder, n *yaml.Node, key, certFile, keyFile string) {
	if pair, loaded := d.checkPair(n, key, certFile, keyFile); loaded {
		t.Pairs = append(t.Pairs, pair)
	}
}

// check reads the users' file, and tells users that are there twice, or not at all.
func (a *Auth) check(d *decoder, n *yaml.Node, key string) {
	seen := map[string]bool{}
	for i, u := range a.Users {
		d.twice(n, seen, u.Name, key+".users["+strconv.Itoa(i)+"].name")
	}
	if a.UsersFile != "" {
		content, err := d.files.read(a.UsersFile)
		if err != nil {
			d.faultAt(n, key+".users_file", a.UsersFile+" "+err.Error())
			return
		}
		a.readUsers(d, seen, string(content))
	}
	if !d.wrote(key+".users") && !d.wrote(key+".users_file") {
		d.faultAt(n, key, "has no users: give users or users_file")
	}
}

// readUsers adds the users of a file in htpasswd form: name:hash, a line each; empty lines and those that begin with # are
// passed over.
func (a *Auth) readUsers(d *decoder, seen map[string]bool, content string) {
	number := 0
	for line := range strings.Lines(content) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		wrong := ""
		switch {
		case WrongUser(name) != "":
			wrong = "the name " + WrongUser(name)
		case wrongHash(hash) != "":
			wrong = "the hash of " + quote(name) + " " + wrongHash(hash)
		case seen[name]:
			wrong = quote(name) + " is there twice"
		}
		if wrong != "" {
			d.report(Fault{Place: Place{a.UsersFile, number, 1}, Message: wrong})
			continue
		}
		seen[name] = true
		a.Users = append(a.Users, User{name, hash})
	}
}

func setUser(_ *decoder, v reflect.Value, text string, _ *field) string {
	v.SetString(text)
	return WrongUser(text)
}

// WrongUser tells what no line of an htpasswd file can name; "" is a good name.
func WrongUser(name string) string {
	if name == "" || len(name) > maxShortString || control(name) || strings.Contains(name, ":") {
		return "is not a user's name: 1 to 255 octets without a colon"
	}
	return ""
}

func setBcrypt(_ *decoder, v reflect.Value, text string, _ *field) string {
	v.SetString(text)
	return wrongHash(text)
}

// The bounds of a hash's cost, which doubles the work with each step: 16 is over a second.
const MinCost, MaxCost = 4, 16

// wrongHash tells what is not like $2y$10$ and 53 more signs: salt and hash in bcrypt's base64.
func wrongHash(hash string) string {
	const signs = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	good := len(hash) == 60 && hash[6] == '$' && strings.Trim(hash[7:], signs) == ""
	if !good || !strings.HasPrefix(hash, "$2a$") && !strings.HasPrefix(hash, "$2b$") && !strings.HasPrefix(hash, "$2y$") {
		return "is not a bcrypt hash (lsmtpd passwd makes one)"
	}
	if cost, err := strconv.Atoi(hash[4:6]); err != nil || cost < MinCost || cost > MaxCost {
		return fmt.Sprintf("has a cost that is not from %d to %d", MinCost, MaxCost)
	}
	return ""
}

// check tells a rate that limits nothing.
func (r *Rate) check(d *decoder, n *yaml.Node, key string) {
	if !d.wrote(key+".messages") && !d.wrote(key+".connections") {
		d.faultAt(n, key, "limits nothing: give messages or connections")
	}
}
