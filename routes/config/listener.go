package config

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Listener is one entry of listeners:, with the file's defaults applied.
type Listener struct {
	Name                    string `yaml:"name" is:"name" own:"true" need:"true" effect:"transaction" doc:"unique; metrics, logs and the payload carry it"`
	Address                 string `yaml:"address" is:"listen" own:"true" need:"true" effect:"live" doc:"IP:port, [v6]:port, :port, unix:/path or systemd:NAME; here in canonical form"`
	Protocol                string `yaml:"protocol" one:"smtp|lmtp" default:"smtp" effect:"session" doc:"what is spoken"`
	Hostname                string `yaml:"hostname" is:"hostname" effect:"session" doc:"overrides the top one"`
	SizeLimit               int64  `yaml:"size_limit" is:"size" default:"10MiB" effect:"session" doc:"largest mail; 0: no limit"`
	Destination             `yaml:",inline"`
	Timeout                 time.Duration  `yaml:"timeout" default:"180s" range:"1s..24h" zero:"true" effect:"session" doc:"longest silence of a client; 0: no limit"`
	MinRate                 int64          `yaml:"min_rate" is:"size" default:"100B" effect:"session" doc:"octets a second inside DATA, after its first 60 s; 0: no limit"`
	MaxRecipients           int            `yaml:"max_recipients" default:"1000" range:"100..999999" zero:"true" effect:"session" doc:"recipients of one mail; 0: no limit"`
	MaxDeliveries           int            `yaml:"max_deliveries" default:"100" effect:"transaction" doc:"destinations of one mail; 0: no limit"`
	MaxConnections          int            `yaml:"max_connections" default:"0" effect:"live" doc:"connections at once; 0: no limit"`
	MaxConnectionsPerClient int            `yaml:"max_connections_per_client" default:"0" effect:"live" doc:"the same for each /32 or /64; 0: no limit"`
	MaxMemory               Quota          `yaml:"max_memory" default:"25%" effect:"live" doc:"of limits.memory, or a size; one message always fits; 0: no limit"`
	SpoolMaxBytes           Quota          `yaml:"spool_max_bytes" default:"25%" effect:"live" doc:"of spool.max_bytes, or a size; 0: no limit"`
	Rate                    *Rate          `yaml:"rate" effect:"live" doc:"how often one client may come"`
	Allow                   []netip.Prefix `yaml:"allow" effect:"transaction" doc:"networks of clients; none: everybody"`
	ProxyProtocol           []netip.Prefix `yaml:"proxy_protocol" effect:"live" doc:"networks that must send a PROXY header"`
	LineEndings             string         `yaml:"line_endings" one:"reject|fix|pass" default:"reject" effect:"session" doc:"what becomes of a bare CR or LF"`
	ReceivedHeader          bool           `yaml:"received_header" default:"true" effect:"transaction" doc:"mail gets a Received field"`
	TLS                     *TLS           `yaml:"tls" effect:"session" doc:"transport security"`
	Auth                    *Auth          `yaml:"auth" effect:"transaction" doc:"SMTP AUTH"`
	OnBrokerFailure         string         `yaml:"on_broker_failure" one:"spool|defer" default:"spool" effect:"transaction" doc:"mail the broker does not confirm"`
	OnUnroutable            string         `yaml:"on_unroutable" one:"spool|defer|reject" default:"spool" effect:"transaction" doc:"mail the broker returns"`
	Routes                  []Route        `yaml:"routes" own:"true" effect:"transaction" doc:"the first that matches takes the recipient"`
	Place                   Place          // of the entry
	Key                     string         // like listeners[1], counted in its file

	marks marks
}

// Destination is where mail goes: templates, not yet parsed. A nil field was not written; what it then means is the reader's.
type Destination struct {
	Exchange   *string           `yaml:"exchange" is:"template" effect:"transaction" doc:"where mail goes; empty is AMQP's default exchange"`
	RoutingKey *string           `yaml:"routing_key" is:"template" effect:"transaction" doc:"with which key"`
	Format     string            `yaml:"format" one:"json|raw" effect:"transaction" doc:"payload: json with the envelope, or the raw mail; default json; in a route the listener's"`
	Headers    map[string]string `yaml:"headers" is:"headers" effect:"transaction" doc:"AMQP headers; a route's are added to its listener's, and win"`
}

// Route is one entry of a listener's routes:.
type Route struct {
	Name        string `yaml:"name" is:"name" effect:"transaction" doc:"for logs and explanations"`
	Match       Match  `yaml:"match" need:"true" doc:"whom it takes: all keys must hold, and one entry of each"`
	Destination `yaml:",inline"`
	Reject      string `yaml:"reject" is:"reply" effect:"transaction" doc:"a reply like 550 5.1.1 text, instead of a destination"`
	Place       Place

	marks marks
}

// Match holds if each of its keys that is not empty has an entry that holds.
type Match struct {
	Recipient []string       `yaml:"recipient" lone:"true" effect:"transaction" doc:"address, domain, .suffix, or pattern with *"`
	Sender    []string       `yaml:"sender" lone:"true" effect:"transaction" doc:"the same; <> is the null sender"`
	Client    []netip.Prefix `yaml:"client" lone:"true" effect:"transaction" doc:"networks"`
	User      []string       `yaml:"user" is:"user" lone:"true" effect:"transaction" doc:"who authenticated"`
}

// Rate limits a client; see the reference.
type Rate struct {
	Messages    int           `yaml:"messages" effect:"live" doc:"messages in each per; 0: no limit"`
	Connections int           `yaml:"connections" effect:"live" doc:"connections in each per; 0: no limit"`
	Per         time.Duration `yaml:"per" default:"1s" range:"1ms..24h" effect:"live" doc:"the period"`
	Burst       int           `yaml:"burst" effect:"live" doc:"how many may come at once; 0: as many as in a period"`
}

// TLS is a listener's transport security.
type TLS struct {
	Mode         string    `yaml:"mode" one:"starttls|implicit" default:"starttls" effect:"session" doc:"after STARTTLS, or from the first octet"`
	CertFile     string    `yaml:"cert_file" is:"path" effect:"session" doc:"certificate with its chain, PEM"`
	KeyFile      string    `yaml:"key_file" is:"path" effect:"session" doc:"its key, PEM"`
	Certificates []KeyPair `yaml:"certificates" effect:"session" doc:"several, chosen by the name the client asks for; the first also without"`
	MinVersion   string    `yaml:"min_version" one:"1.2|1.3" default:"1.2" effect:"session" doc:"oldest protocol"`
	Required     bool      `yaml:"required" effect:"transaction" doc:"no mail in clear"`
	ClientCAFile string    `yaml:"client_ca_file" is:"path" effect:"session" doc:"who signs clients' certificates"`
	ClientAuth   string    `yaml:"client_auth" one:"require|request" effect:"session" doc:"whether a client must have one; default require"`

	Pairs     []tls.Certificate // as the files held them: the one of cert_file and key_file, or those of certificates
	ClientCAs *x509.CertPool    // what client_ca_file held; nil without it
}

// KeyPair is one certificate and its key, as files in PEM form.
type KeyPair struct {
	CertFile string `yaml:"cert_file" is:"path" need:"true" effect:"session" doc:"certificate with its chain, PEM"`
	KeyFile  string `yaml:"key_file" is:"path" need:"true" effect:"session" doc:"its key, PEM"`
}

// Auth is a listener's SMTP AUTH.
type Auth struct {
	Required       bool   `yaml:"required" effect:"transaction" doc:"no mail without"`
	AllowPlaintext bool   `yaml:"allow_plaintext" effect:"session" doc:"offer it without TLS"`
	UsersFile      string `yaml:"users_file" is:"path" effect:"transaction" doc:"users in htpasswd form, bcrypt only"`
	Users          []User `yaml:"users" effect:"transaction" doc:"users written here; here with those of users_file"`
}

// User is one name that may authenticate.
type User struct {
	Name         string `yaml:"name" is:"user" need:"true" effect:"transaction" doc:"unique in its listener"`
	PasswordHash string `yaml:"password_hash" is:"bcrypt" need:"true" secret:"true" effect:"transaction" doc:"made by lsmtpd passwd"`
}

// At returns the place of a key's value, like "tls.mode"; of the nearest key above it where it was not written.
func (l *Listener) At(key string) Place {
	if p, found := l.marks.at(key); found {
		return p
	}
	return l.Place
}

// At returns the place of a key's value, like "match.recipient[1]"; of the nearest key above it where it was not written.
func (r *Route) At(key string) Place {
	if p, found := r.marks.at(key); found {
		return p
	}
	return r.Place
}

// Fault makes a Fault of one of l's keys; of the whole listener where key is "".
func (l *Listener) Fault(key, message string) Fault {
	f := Fault{Place: l.At(key), Key: strings.TrimSuffix(l.Key+"."+key, "."), Message: message}
	if all, inDefaults := l.marks.under.at(key); !inDefaults || all != f.Place {
		f.listener = l.Name
	}
	return f
}

// RouteFault makes a Fault of a key of l's route i; of the whole route where key is "".
func (l *Listener) RouteFault(i int, key, message string) Fault {
	whole := strings.TrimSuffix(l.Key+".routes["+strconv.Itoa(i)+"]."+key, ".")
	return Fault{Place: l.Routes[i].At(key), Key: whole, Message: message, listener: l.Name}
}
