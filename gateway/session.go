package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/listen"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes/address"
)

// proxyWait is how long a proxy may take to send its header.
const proxyWait = 30 * time.Second

// session is one client's connection. It belongs to the address it came to: at each MAIL the listener that has the address
// then says what is allowed and where mail goes; what the session was told at its start (settings) stays.
type session struct {
	gateway  *Gateway
	address  string
	listener *listener // of the moment of accept; nil where the address had just gone
	conn     net.Conn
	smtp     *smtp.Session
	client   *smtp.Client     // from Admit on
	hash     string           // of client.User's password as it was when it was checked
	broken   error            // why there is no conversation; io.EOF where nobody wanted one
	told     int              // refusals under way that are in the log already
	refused  refusedRecipient // of the refusal under way; zero where it is not about one
	tried    string           // whom the refusal under way did not let in; "" where it is not about that
	parted   bool             // a refusal that ends the session was told of
	outside  clientOf         // as whom it is counted that is not let in; zero where it is
	visit    clientOf         // as whom it was let in; zero where it was not
	leaving  atomic.Bool      // it was asked to end
	awaited  bool             // its address is gone, and it is cut when drain_timeout has passed; owned by Apply
	ended    chan struct{}    // closed when it has
}

// handle takes a connection from an accept loop.
func (g *Gateway) handle(address string, c net.Conn) {
	s := &session{gateway: g, address: address, conn: c, ended: make(chan struct{})}
	r := g.running.Load()
	pinned := &smtp.Settings{Hostname: r.table.Config.Hostname}
	if s.listener = r.listeners[address]; s.listener != nil {
		pinned = s.listener.settings
	}
	s.smtp = smtp.NewSession(c, pinned, s)
	if !g.sessions.add(s) {
		s.listener = nil // the gateway is stopping: greeted with 421
	}
	if g.running.Load().listeners[address] == nil {
		s.drain() // removed meanwhile, and this session perhaps not seen by who drained its others
	}
	g.serving.Go(func() {
		defer close(s.ended)
		defer g.sessions.remove(s)
		defer s.leave()
		s.serve()
	})
}

// drain ends the session with 421 4.3.2 when it is idle, at once or after the transaction.
func (s *session) drain() {
	s.leaving.Store(true)
	s.smtp.Drain()
}

// serve is on the stack of each idle session: a large frame would keep its stack from shrinking.
func (s *session) serve() { s.over(s.smtp.Serve(s.gateway.cutting)) }

// over tells of a session that ended by err.
func (s *session) over(err error) {
	if s.broken != nil {
		err = s.broken
	}
	if err == nil || err == io.EOF || s.listener == nil {
		return
	}
	if errors.Is(err, smtp.ErrStartTLSInjection) {
		s.listener.state.injections.Add(1)
	}
	log := s.gateway.log.With("listener", s.listener.Name, "client", clientText(s.client))
	if broken, ok := asPanic(err); ok {
		log.Error("a session panicked", "error", broken.Value, "stack", string(broken.Stack))
		return
	}
	if s.parted {
		return
	}
	if s.listener.state.refusals.admit(s.gateway.log.With("listener", s.listener.Name)) {
		log.Info("session ended", "error", err)
	}
}

// Admit refuses whoever came to an address that no listener has any more, and who is not allowed to come.
func (s *session) Admit(_ context.Context, c *smtp.Client) smtp.Reply {
	s.client = c
	if s.listener == nil {
		return replyGone
	}
	if s.broken = s.readProxyHeader(c); s.broken != nil {
		s.conn.Close() // there is nobody who would understand a reply
		return smtp.Reply{}
	}
	r := replyDenied
	if allows(s.listener, c) {
		r = s.enter(c)
	}
	if !r.IsZero() && !s.stayOutside(c) {
		return smtp.Reply{}
	}
	return r
}

// readProxyHeader has c be the client that a proxy names, on a connection from a network that must send a PROXY header.
func (s *session) readProxyHeader(c *smtp.Client) error {
	if !within(s.listener.ProxyProtocol, c.Addr.Addr()) {
		return nil
	}
	if !s.gateway.limits.await(s.gateway.running.Load().most) {
		s.cutOff("cut off: limits.connections is reached")
		return s.broken
	}
	defer s.gateway.limits.told()
	deadline := time.Now().Add(proxyWait)
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if s.leaving.Load() {
		return nil // it was asked to before the deadline was set, which nothing would cut short now
	}
	client, err := listen.ReadProxyHeader(s.conn)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline): // drain did that
		return nil
	case err != nil:
		return err
	case client.IsValid():
		c.Addr = client
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// allows tells whether c may come to l. A client on a Unix socket has no address: the file's mode said whether it may.
func allows(l *listener, c *smtp.Client) bool {
	return len(l.Allow) == 0 || !c.Addr.IsValid() || within(l.Allow, c.Addr.Addr())
}

// within tells whether ip is in one of networks.
func within(networks []netip.Prefix, ip netip.Addr) bool {
	ip = ip.WithZone("")
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// Auth checks a password against the users of the listener that has the session's address now.
func (s *session) Auth(ctx context.Context, c *smtp.Client, user, password string) smtp.Reply {
	l := s.gateway.running.Load().listeners[s.address]
	if l == nil {
		return replyGone
	}
	if l.Auth == nil {
		return replyChanged
	}
	hash, err := s.gateway.auth.check(ctx, l, user, password)
	switch {
	case errors.Is(err, errWrongPassword):
		s.tried = user
		return replyWrong
	case errors.Is(err, errBusy), ctx.Err() != nil:
		return replyNoCheck
	case err != nil:
		s.gateway.log.Error("cannot verify a password", "listener", l.Name, "client", clientText(c), "user", user, "error", err)
		return replyNoCheck
	}
	s.hash = hash
	return smtp.Reply{}
}

// Mail begins a transaction with the listener that has the session's address now.
func (s *session) Mail(_ context.Context, c *smtp.Client, from address.Address, p smtp.MailParams) (smtp.Transaction, smtp.Reply) {
	r := s.gateway.running.Load()
	l := r.listeners[s.address]
	if l == nil {
		return nil, replyGone
	}
	if reply := s.obstacle(l, c); !reply.IsZero() {
		return nil, reply
	}
	if l.OnBrokerFailure == "defer" && !s.gateway.publisher.Available() {
		return nil, replyTryLater
	}
	if !s.gateway.limits.message(l, l.state.client(c.Addr.Addr()), time.Now()) {
		return nil, replyTooFast
	}
	return s.newTransaction(r, l, c, from, p), smtp.Reply{}
}

// obstacle is what stands between this session and mail through l, the present listener of its address: something to be done
// first, or a rule that came after it and that it cannot meet any more.
func (s *session) obstacle(l *listener, c *smtp.Client) smtp.Reply {
	told := s.listener.settings
	needTLS := replyNeedTLS
	if told.TLS == nil {
		needTLS = replyChanged
	}
	switch {
	case !allows(l, c):
		return replyChanged
	case l.TLS != nil && l.TLS.Required && c.TLS == "":
		return needTLS
	case c.User != "" && l.users[c.User] != s.hash:
		return replyChanged // he is gone, or another has his name
	case c.User != "" || l.Auth == nil || !l.Auth.Required:
		return smtp.Reply{}
	case !told.Auth:
		return replyChanged
	case c.TLS == "" && !told.AuthPlaintext:
		return needTLS
	}
	return replyNeedAuth
}

// Refused counts and logs what the client was refused.
func (s *session) Refused(c *smtp.Client, command string, r smtp.Reply) {
	if s.listener == nil || r.Code == 421 && r.Enhanced == "4.3.2" && r != replyCrowded {
		return // we end the session: nothing that the client did was refused
	}
	s.parted = r.Close
	defer func() { s.refused, s.tried = refusedRecipient{}, "" }()
	st := s.listener.state
	st.refused.Add(1)
	if s.told > 0 {
		s.told--
		return
	}
	log := s.gateway.log
	if !st.refusals.admit(log.With("listener", s.listener.Name)) {
		return
	}
	attrs := []slog.Attr{
		slog.String("listener", s.listener.Name),
		slog.String("client", clientText(c)),
		slog.String("helo", c.Helo),
		slog.String("command", command),
		slog.Int("code", r.Code),
		slog.String("enhanced", r.Enhanced),
		slog.String("reply", r.Text),
	}
	if about := s.refused; about != (refusedRecipient{}) {
		attrs = append(attrs, slog.String("sender", about.sender.String()), slog.String("recipient", about.recipient.String()))
	}
	if s.tried != "" {
		attrs = append(attrs, slog.String("user", s.tried[:min(len(s.tried), maxShort)]))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "refused", attrs...)
}

// refusedRecipient is whom a refused RCPT was about.
type refusedRecipient struct{ sender, recipient address.Address }

// clientText is a client's address and port as every log line has them, "" on a Unix socket.
func clientText(c *smtp.Client) string {
	if !c.Addr.IsValid() {
		return ""
	}
	return c.Addr.String()
}
