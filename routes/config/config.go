// Package config reads lsmtpd.yaml and every file it names into a Config, strictly: every fault of every file is reported
// at once with its place and its remedy. It does not know what a route matches nor what a socket is.
package config

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// The tags of the fields below are the one description of the file; the decoder, its defaults, Diff and the documentation are
// made from them:
//
//	yaml     the key
//	is       the kind of its value, where the Go type does not say it (see kinds)
//	one      the words that it may be
//	range    its bounds; zero: 0 may break them, and is no limit
//	default  what a missing key means
//	effect   when a change is in force: for a new session, for a new transaction, or at once (live)
//	doc      a line for the operator
//	own      a listener's own: defaults: cannot give it
//	need     it must be there
//	lone     a list that may be written as its only entry
//	secret   never shown

// Config is one configuration as it was read: defaults filled in, listeners' defaults and included files merged, secrets read.
// It is not changed after Read returned it.
type Config struct {
	Hostname      string        `yaml:"hostname" is:"hostname" effect:"session" doc:"name in the greeting and in Received; default: the host's"`
	Log           Log           `yaml:"log" doc:"what is logged, and how"`
	DrainTimeout  time.Duration `yaml:"drain_timeout" default:"30s" effect:"live" doc:"how long a removed listener or a stopping process waits for sessions"`
	Admin         Admin         `yaml:"admin" doc:"the operator's sockets"`
	AMQP          AMQP          `yaml:"amqp" doc:"the broker"`
	Spool         Spool         `yaml:"spool" doc:"where mail waits for the broker"`
	Limits        Limits        `yaml:"limits" doc:"of the whole process"`
	Include       []string      `yaml:"include" effect:"live" doc:"files that hold listeners: only; patterns with * are allowed"`
	IncludeErrors string        `yaml:"include_errors" one:"refuse|keep" default:"refuse" effect:"live" doc:"what a broken included file does: refuse the whole, or keep its last good listeners"`
	Defaults      Listener      `yaml:"defaults" doc:"any key of a listener but name, address, routes; already applied to Listeners"`
	Listeners     []Listener    `yaml:"listeners" doc:"where mail comes in"`

	Path     string  // of the file that was read, as it was given
	Sources  Sources // what could change this Config
	Digest   string  // SHA-256 in hex over the octets of every file read
	Warnings Faults  // what is allowed, but probably not meant

	marks marks
	files []string // in the order in which they were read
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level" one:"debug|info|warn|error" default:"info" effect:"live" doc:"the least that is logged"`
	Format string `yaml:"format" one:"auto|text|json" default:"auto" effect:"live" doc:"auto: colours on a terminal, JSON elsewhere"`
}

// Admin names the operator's sockets. Socket is "" where no default could be named.
type Admin struct {
	Address string `yaml:"address" is:"tcp" effect:"live" doc:"status page and metrics, read-only; empty: off"`
	Socket  string `yaml:"socket" is:"socket" effect:"live" doc:"what the commands talk to; default: in the runtime directory"`
	// SocketIsDefault tells a default, which may fail to open with a warning, from a configured path, which may not.
	SocketIsDefault bool
}

// AMQP describes the broker and what the publisher expects of it.
type AMQP struct {
	URLs           []string      `yaml:"urls" is:"url" default:"amqp://guest:guest@127.0.0.1:5672/" secret:"true" effect:"live" doc:"nodes of one cluster, tried in turn"`
	Username       string        `yaml:"username" effect:"live" doc:"instead of the URL's"`
	PasswordFile   string        `yaml:"password_file" is:"path" effect:"live" doc:"holds the password, instead of the URL's"`
	Password       string        // what PasswordFile held
	TLS            *AMQPTLS      `yaml:"tls" effect:"live" doc:"of the connection to the broker, for amqps URLs"`
	Heartbeat      time.Duration `yaml:"heartbeat" default:"10s" range:"1s..10m" effect:"live" doc:"longest silence between living peers"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"5s" range:"100ms..10m" effect:"live" doc:"for one attempt to connect"`
	ConfirmTimeout time.Duration `yaml:"confirm_timeout" default:"15s" range:"100ms..10m" effect:"live" doc:"from the final dot to the broker's confirm; what is not confirmed then is spooled"`
	Buffer         int           `yaml:"buffer" default:"1000" range:"1..1000000" effect:"live" doc:"capacity of the shared publish channel, in messages"`
	MaxMessageSize int64         `yaml:"max_message_size" is:"size" default:"16MiB" range:"64KiB.." zero:"true" effect:"live" doc:"the largest message the broker takes; 0: no limit"`
	Topology       Topology      `yaml:"topology" doc:"declared when the broker connects, and on a reload that changes it"`
}

// AMQPTLS is the TLS of the connection to the broker.
type AMQPTLS struct {
	CAFile     string `yaml:"ca_file" is:"path" effect:"live" doc:"certificates that sign the broker's; default: the system's"`
	CertFile   string `yaml:"cert_file" is:"path" effect:"live" doc:"client certificate"`
	KeyFile    string `yaml:"key_file" is:"path" effect:"live" doc:"key of the client certificate"`
	ServerName string `yaml:"server_name" is:"hostname" effect:"live" doc:"name in the broker's certificate; default: the URL's"`

	// What the files held.
	CAs  *x509.CertPool  // nil: the system's
	Pair tls.Certificate // without certificates where there is none
}

// Topology is declared when the broker connects.
type Topology struct {
	Exchanges []Exchange `yaml:"exchanges" effect:"live" doc:"exchanges to declare"`
	Queues    []Queue    `yaml:"queues" effect:"live" doc:"queues to declare"`
	Bindings  []Binding  `yaml:"bindings" effect:"live" doc:"what goes from which exchange to which queue"`
}

// Exchange is one exchange.declare.
type Exchange struct {
	Name       string         `yaml:"name" is:"declared" need:"true" effect:"live" doc:"at most 255 octets"`
	Type       string         `yaml:"type" is:"exchange type" need:"true" effect:"live" doc:"direct, fanout, topic, headers, or a plugin's x-…"`
	Durable    bool           `yaml:"durable" default:"true" effect:"live" doc:"it survives a restart of the broker"`
	AutoDelete bool           `yaml:"auto_delete" effect:"live" doc:"it goes with its last binding"`
	Internal   bool           `yaml:"internal" effect:"live" doc:"only other exchanges may publish to it"`
	Arguments  map[string]any `yaml:"arguments" effect:"live" doc:"passed on to the broker"`
}

// Queue is one queue.declare.
type Queue struct {
	Name       string         `yaml:"name" is:"declared" need:"true" effect:"live" doc:"at most 255 octets"`
	Durable    bool           `yaml:"durable" default:"true" effect:"live" doc:"it survives a restart of the broker"`
	AutoDelete bool           `yaml:"auto_delete" effect:"live" doc:"it goes with its last consumer"`
	Exclusive  bool           `yaml:"exclusive" effect:"live" doc:"it goes with lsmtpd's connection"`
	Arguments  map[string]any `yaml:"arguments" effect:"live" doc:"passed on to the broker, like x-queue-type: quorum"`
}

// Binding is one queue.bind.
type Binding struct {
	Exchange   string         `yaml:"exchange" is:"named" need:"true" effect:"live" doc:"from here"`
	Queue      string         `yaml:"queue" is:"named" need:"true" effect:"live" doc:"to here"`
	RoutingKey string         `yaml:"routing_key" is:"shortstr" effect:"live" doc:"what the key must be; on a topic exchange * and # are wild"`
	Arguments  map[string]any `yaml:"arguments" effect:"live" doc:"passed on to the broker; a headers exchange matches by them"`
}

// Spool says where mail waits for the broker, and how much.
type Spool struct {
	Dir        string `yaml:"dir" is:"path" effect:"live" doc:"default: $STATE_DIRECTORY/spool under systemd, else /tmp/lsmtp"`
	MaxBytes   int64  `yaml:"max_bytes" is:"size" default:"10GiB" effect:"live" doc:"most that is spooled; 0: no limit"`
	MinFree    int64  `yaml:"min_free" is:"size" default:"256MiB" effect:"live" doc:"what must stay free on the spool's file system"`
	ReplayRate int    `yaml:"replay_rate" default:"0" effect:"live" doc:"most messages a second in a replay; 0: as fast as live mail allows"`
}

// Limits are those of the whole process.
type Limits struct {
	Connections int   `yaml:"connections" default:"10000" effect:"live" doc:"most connections at once; 0: no limit"`
	Memory      int64 `yaml:"memory" is:"size" default:"1GiB" range:"16MiB.." zero:"true" effect:"live" doc:"octets of mail held at once; 0: no limit"`
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

// At returns the place of a key's value, like "amqp.urls[0]"; of the nearest key above it where it was not written.
func (c *Config) At(key string) Place {
	if p, found := c.marks.at(key); found {
		return p
	}
	return Place{c.Path, 1, 1}
}

// Fault makes a Fault of a key like "amqp.urls".
func (c *Config) Fault(key, message string) Fault {
	return Fault{Place: c.At(key), Key: key, Message: message}
}

// Included returns the listeners that an included file gave, by the name that faults call it.
func (c *Config) Included(file string) []Listener {
	var listeners []Listener
	for i := range c.Listeners {
		if c.Listeners[i].Place.File == file {
			listeners = append(listeners, c.Listeners[i])
		}
	}
	return listeners
}

// Sorted returns faults in the order of c's files and of their places in them.
func (c *Config) Sorted(faults Faults) Faults { return faults.sortBy(c.files) }
