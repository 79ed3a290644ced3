package gateway

import (
	"context"
	"log/slog"
	"net"

	"lsmtpd/gateway/smtp"
	"lsmtpd/routes/address"
)

// session is one client's connection. It belongs to the address it came to: at each MAIL the listener that has the address
// then says what is allowed and where mail goes; what the session was told at its start (settings) stays.
type session struct {
	gateway  *Gateway
	address  string
	listener *listener // of the moment of accept; nil where the address had just gone
	conn     net.Conn
	smtp     *smtp.Session
	client   *smtp.Client     // from Admit on
	told     bool             // the refusal under way is in the log already
	refused  refusedRecipient // of the refusal under way; zero where it is not about one
	parted   bool             // a refusal that ends the session was told of
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
		s.smtp.Drain() // removed meanwhile, and this session perhaps not seen by who drained its others
	}
	g.serving.Go(func() {
		defer close(s.ended)
		defer g.sessions.remove(s)
		s.serve()
	})
}

func (s *session) serve() {
	err := s.smtp.Serve(s.gateway.cutting)
	if err == nil || s.listener == nil {
		return
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

// Admit refuses whoever came to an address that no listener has any more.
func (s *session) Admit(_ context.Context, c *smtp.Client) smtp.Reply {
	s.client = c
	if s.listener == nil {
		return replyGone
	}
	return smtp.Reply{}
}

// Auth refuses: no listener offers authentication yet.
func (s *session) Auth(context.Context, *smtp.Client, string, string) smtp.Reply { return replyNoAuth }

// Mail begins a transaction with the listener that has the session's address now.
func (s *session) Mail(_ context.Context, c *smtp.Client, from address.Address, p smtp.MailParams) (smtp.Transaction, smtp.Reply) {
	r := s.gateway.running.Load()
	l := r.listeners[s.address]
	if l == nil {
		return nil, replyGone
	}
	if l.OnBrokerFailure == "defer" && !s.gateway.publisher.Available() {
		return nil, replyTryLater
	}
	return s.newTransaction(r, l, c, from), smtp.Reply{}
}

// Refused counts and logs what the client was refused.
func (s *session) Refused(c *smtp.Client, command string, r smtp.Reply) {
	if s.listener == nil || r.Code == 421 && r.Enhanced == "4.3.2" {
		return // we end the session: nothing that the client did was refused
	}
	s.parted = r.Close
	defer func() { s.refused = refusedRecipient{} }()
	st := s.listener.state
	st.refused.Add(1)
	if s.told {
		s.told = false
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
