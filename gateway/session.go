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
	client   *smtp.Client // from Admit on
	told     bool         // the refusal under way is in the log already
}

// handle takes a connection from an accept loop.
func (g *Gateway) handle(address string, c net.Conn) {
	s := &session{gateway: g, address: address, conn: c}
	r := g.running.Load()
	pinned := &smtp.Settings{Hostname: r.table.Config.Hostname}
	if s.listener = r.listeners[address]; s.listener != nil {
		pinned = s.listener.settings
	}
	s.smtp = smtp.NewSession(c, pinned, s)
	if !g.sessions.add(s) {
		s.listener = nil // the gateway is stopping: greeted with 421
	}
	g.serving.Go(func() {
		defer g.sessions.remove(s)
		if l := s.listener; l != nil {
			l.state.sessions.Add(1)
			defer l.state.sessions.Add(-1)
		}
		s.serve()
	})
}

func (s *session) serve() {
	err := s.smtp.Serve(s.gateway.cutting)
	if err == nil || s.listener == nil {
		return
	}
	log := s.gateway.log.With("listener", s.listener.Name, "client", s.client.Addr.String())
	if broken, ok := asPanic(err); ok {
		log.Error("a session panicked", "error", broken.Value, "stack", string(broken.Stack))
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
	if s.listener == nil {
		return
	}
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
	log.LogAttrs(context.Background(), slog.LevelInfo, "refused",
		slog.String("listener", s.listener.Name),
		slog.String("client", c.Addr.String()),
		slog.String("helo", c.Helo),
		slog.String("command", command),
		slog.Int("code", r.Code),
		slog.String("enhanced", r.Enhanced),
		slog.String("reply", r.Text))
}
