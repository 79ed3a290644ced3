package publish

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

const closePatience = 2 * time.Second

// link is one connection to the broker.
type link struct {
	broker      string      // host:port, for logs
	url         int         // which of amqp.urls
	passed      []Unreached // those that were tried before it
	conn        *conn
	tls         *secured // on conn; nil where there is none
	amqp        *amqp.Connection
	gone        chan struct{}                // closed when the connection is
	notify      func(l *link, reason string) // told when the broker blocks (reason) and unblocks (""); nil where nobody is
	unconfirmed sync.WaitGroup               // published, and no result yet
	table       int                          // octets of a header table that one of its frames has room for
	patience    time.Duration                // longest wait for those when the link is retired
	least       atomic.Int64                 // octets of a payload that the broker takes no more; 0 is not known
	idle        atomic.Pointer[amqp.Channel] // a scratch that nobody asks on now; nil before the first
	answers     map[string]answer            // what the broker said of exchanges; not changed once a line has the link
	worn        chan struct{}                // holds a token when its lane wants another in its place

	// guarded by mu
	mu       sync.Mutex
	cause    error            // why it is gone; nil for our own close
	block    string           // the broker's reason while it is blocked
	stall    chan struct{}    // closed while the broker is blocked
	declared *config.Topology // nil before the first
	faults   []error          // what the broker refused of it
}

// dial connects to one URL within c.ConnectTimeout.
func dial(ctx context.Context, c *config.AMQP, url string, t to) (*link, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, errors.New("not an AMQP URL") // the URL may hold a password
	}
	l := &link{
		broker:   net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)),
		gone:     make(chan struct{}),
		notify:   t.notify,
		stall:    make(chan struct{}),
		worn:     make(chan struct{}, 1),
		patience: c.ConfirmTimeout,
	}
	patience := c.ConnectTimeout
	if by, limited := ctx.Deadline(); limited {
		patience = min(patience, time.Until(by))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	settings, err := l.settings(ctx, c, uri)
	if err != nil {
		return nil, &awayError{broker: l.broker, reason: "is not asked: " + err.Error(), there: true, err: err}
	}
	settings.Properties.SetClientConnectionName(t.name)
	if uri.Scheme == "amqps" {
		url = "amqp" + url[len("amqps"):] // TLS is settings.Dial's
	}
	if l.amqp, err = amqp.DialConfig(url, settings); err != nil {
		onWire := ctx.Err() // it cuts the handshake
		if l.conn != nil && onWire == nil {
			onWire = l.conn.failure()
		}
		if l.conn != nil {
			l.conn.unbind()
			l.conn.Close()
		}
		return nil, away(l.broker, cmp.Or(l.tls.alert(), err), wire{failure: onWire, asked: l.conn != nil && l.conn.asked.Load(), waited: patience})
	}
	l.conn.established(l.amqp.Config.Heartbeat)
	l.table = mail.TableIn(l.amqp.Config.FrameSize)
	closed := l.amqp.NotifyClose(make(chan *amqp.Error, 1))
	blockings := l.amqp.NotifyBlocked(make(chan amqp.Blocking, 16))
	go l.watch(closed, blockings)
	return l, nil
}

// noted is a way to log in that notes when it was taken.
type noted struct {
	amqp.Authentication
	link *link
}

// Response returns what is sent, and notes that it is.
func (n noted) Response() string {
	n.link.conn.asked.Store(true)
	return n.Authentication.Response()
}

// settings are for a handshake until the deadline of ctx. They are fresh for each attempt: the library changes what it is given, and the files of secrets are replaced by others.
func (l *link) settings(ctx context.Context, c *config.AMQP, uri amqp.URI) (amqp.Config, error) {
	settings := amqp.Config{Heartbeat: c.Heartbeat, Properties: amqp.NewConnectionProperties()}
	for _, way := range credentials(c, uri) {
		settings.SASL = append(settings.SASL, noted{way, l})
	}
	var secure *tls.Config
	if uri.Scheme == "amqps" {
		var err error
		if secure, err = clientTLS(c.TLS); err != nil {
			return settings, err
		}
		secure.ServerName = cmp.Or(secure.ServerName, uri.Host)
	}
	settings.Dial = func(network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		tcp, err := dialer.DialContext(ctx, network, l.broker)
		if err != nil {
			return nil, err
		}
		by, _ := ctx.Deadline()
		if l.conn, err = newConn(ctx, tcp, by); err != nil || secure == nil {
			return l.conn, err
		}
		l.tls = &secured{Conn: tls.Client(l.conn, secure)}
		return l.tls, l.tls.Handshake()
	}
	return settings, nil
}

// sameBroker tells whether a and b lead to the same connection.
func sameBroker(a, b *config.AMQP) bool {
	return slices.Equal(a.URLs, b.URLs) && a.Username == b.Username && a.Password == b.Password &&
		a.Heartbeat == b.Heartbeat && a.TLS.Same(b.TLS)
}

// watch follows the connection until it closes.
func (l *link) watch(closed chan *amqp.Error, blockings chan amqp.Blocking) {
	for b := range blockings {
		l.conn.blocked(b.Active)
		l.mu.Lock()
		changed := b.Active != (l.block != "")
		switch {
		case changed && b.Active:
			l.block = cmp.Or(b.Reason, "no reason given")
			close(l.stall)
		case changed:
			l.block = ""
			l.stall = make(chan struct{})
		}
		reason := l.block
		l.mu.Unlock()
		if changed && l.notify != nil {
			l.notify(l, reason)
		}
	}
	if err := <-closed; err != nil {
		l.mu.Lock()
		l.cause = err
		l.mu.Unlock()
	}
	close(l.gone)
}

// broken tells whether the connection is lost.
func (l *link) broken() bool { return l.amqp.IsClosed() }

// stalled is closed while the broker blocks the connection.
func (l *link) stalled() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stall
}

// refusing tells why the broker takes no mail from l: nil where it does.
func (l *link) refusing() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.block != "" {
		return fmt.Errorf("broker %s blocked: %s", l.broker, l.block)
	}
	return nil
}

// refuses notes that the broker takes no payload of so many octets.
func (l *link) refuses(octets int64) {
	for {
		least := l.least.Load()
		if least != 0 && least <= octets || l.least.CompareAndSwap(least, octets) {
			return
		}
	}
}

// fits tells why the broker would not take a payload of so many octets: nil where it would, as far as is known.
func (l *link) fits(octets int64) error {
	if least := l.least.Load(); least != 0 && octets >= least {
		return fmt.Errorf("broker %s takes at most %d octets, and its payload has %d", l.broker, least-1, octets)
	}
	return nil
}

// topologyFaults is what the broker refused of the topology.
func (l *link) topologyFaults() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.faults)
}

func (l *link) noteFaults(faults []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = faults
}

// why tells why the connection is gone.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return away(l.broker, cmp.Or(l.tls.alert(), l.cause), wire{failure: l.conn.failure()})
	}
	return fmt.Errorf("broker %s: the connection is closed", l.broker)
}

// close ends the connection politely, at the latest after closePatience. What is unconfirmed is then in doubt.
func (l *link) close() {
	cut := time.AfterFunc(closePatience, func() { l.conn.Close() })
	defer cut.Stop()
	l.conn.uncork() // waits for a write that is stuck
	l.amqp.Close()
	<-l.gone
}
