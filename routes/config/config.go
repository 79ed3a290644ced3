// Package config reads lsmtpd.yaml and every file it names into a Config, strictly: every fault of every file is reported
// at once with its place and its remedy. It does not know what a route matches nor what a socket is.
package config

import (
	"net/netip"
	"time"
)

// Config is one configuration as it was read: defaults filled in, listeners' defaults and included files merged, secrets read.
// It is not changed after Read returned it.
type Config struct {
	Hostname      string
	Log           Log
	DrainTimeout  time.Duration
	Admin         Admin
	AMQP          AMQP
	Spool         Spool
	Limits        Limits
	Include       []string
	IncludeErrors string // refuse | keep
	Listeners     []Listener

	Path     string   // of the file that was read, as it was given
	Sources  []string // every file, directory and symbolic link whose change could change this Config
	Digest   string   // SHA-256 in hex over the octets of every file read
	Warnings Faults   // what is allowed, but probably not meant
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug | info | warn | error
	Format string // auto | text | json
}

// Admin names the operator's sockets.
type Admin struct {
	Address string // status page and metrics; "" is off
	Socket  string // "" where no default could be named
	// SocketIsDefault tells a default, which may fail to open with a warning, from a configured path, which may not.
	SocketIsDefault bool
}

// AMQP describes the broker and what the publisher expects of it.
type AMQP struct {
	URLs           []string // nodes of one cluster, tried in turn. They carry secrets: never logged
	Username       string
	PasswordFile   string
	Password       string // what PasswordFile held
	TLS            *AMQPTLS
	Heartbeat      time.Duration
	ConnectTimeout time.Duration
	ConfirmTimeout time.Duration // from the final dot to the confirm
	Buffer         int           // messages
	MaxMessageSize int64         // octets of payload the broker takes
	Topology       Topology
}

// AMQPTLS is the TLS of the connection to the broker.
type AMQPTLS struct{ CAFile, CertFile, KeyFile, ServerName string }

// Topology is declared when the broker connects.
type Topology struct {
	Exchanges []Exchange
	Queues    []Queue
	Bindings  []Binding
}

// Exchange is one exchange.declare.
type Exchange struct {
	Name, Type string
	Durable    bool
	AutoDelete bool
	Internal   bool
	Arguments  map[string]any
}

// Queue is one queue.declare.
type Queue struct {
	Name       string
	Durable    bool
	AutoDelete bool
	Exclusive  bool
	Arguments  map[string]any
}

// Binding is one queue.bind.
type Binding struct {
	Exchange, Queue, RoutingKey string
	Arguments                   map[string]any
}

// Spool says where mail waits for the broker, and how much.
type Spool struct {
	Dir        string
	MaxBytes   int64
	MinFree    int64
	ReplayRate int // messages a second; 0 is as fast as live mail allows
}

// Limits are those of the whole process.
type Limits struct {
	Connections int
	Memory      int64 // octets of mail held at once
}

// Quota is a share of a process-wide limit: a percentage of it, or octets. The zero Quota is no limit.
type Quota struct {
	Percent float64
	Octets  int64
}

// Of returns the octets that q allows of total. 0 is no limit.
func (q Quota) Of(total int64) int64 {
	if q.Percent > 0 {
		return int64(float64(total) * q.Percent / 100)
	}
	return q.Octets
}

// Listener is one entry of listeners:, with the file's defaults applied.
type Listener struct {
	Name                    string
	Address                 string // canonical: IP:port, [v6]:port, :port, unix:/path or systemd:name
	Protocol                string // smtp | lmtp
	Hostname                string // the listener's, else the file's
	SizeLimit               int64
	Destination             `yaml:",inline"`
	Timeout                 time.Duration
	MinRate                 int64 // octets a second
	MaxRecipients           int
	MaxDeliveries           int
	MaxConnections          int
	MaxConnectionsPerClient int
	MaxMemory               Quota
	SpoolMaxBytes           Quota
	Rate                    *Rate
	Allow                   []netip.Prefix
	ProxyProtocol           []netip.Prefix
	LineEndings             string // reject | fix | pass
	ReceivedHeader          bool
	TLS                     *TLS
	Auth                    *Auth
	OnBrokerFailure         string // spool | defer
	OnUnroutable            string // spool | defer | reject
	Routes                  []Route
	Place                   Place // of the entry
}

// Destination is where mail goes: templates, not yet parsed. A nil field was not written; what it then means is the reader's.
type Destination struct {
	Exchange   *string // "" is AMQP's default exchange, nil is none
	RoutingKey *string
	Format     string // json | raw; "" in a Route: the listener's
	Headers    map[string]string
}

// Route is one entry of a listener's routes:.
type Route struct {
	Name        string
	Match       Match
	Destination `yaml:",inline"`
	Reject      string // a reply like "550 5.1.1 text"; "" where the route delivers
	Place       Place
}

// Match holds if each of its keys that is not empty has an entry that holds.
type Match struct {
	Recipient []string
	Sender    []string
	Client    []netip.Prefix
	User      []string
}

// Rate limits a client; see config.md.
type Rate struct {
	Messages, Connections int
	Per                   time.Duration
	Burst                 int
}

// TLS is a listener's transport security.
type TLS struct {
	Mode         string // starttls | implicit
	CertFile     string
	KeyFile      string
	Certificates []KeyPair
	MinVersion   string
	Required     bool
	ClientCAFile string
	ClientAuth   string // require | request
}

// KeyPair is one certificate and its key, as files in PEM form.
type KeyPair struct{ CertFile, KeyFile string }

// Auth is a listener's SMTP AUTH.
type Auth struct {
	Required       bool
	AllowPlaintext bool
	UsersFile      string
	Users          []User
}

// User is one name that may authenticate.
type User struct{ Name, PasswordHash string }

// Place is where something stands in a file: line and column count from 1, 0 is unknown.
type Place struct {
	File      string
	Line, Col int
}
