package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// How much a client may try a session's patience.
const (
	freeErrors = 10 // each further error reply waits for errorDelay
	maxErrors  = 20 // this one ends the session
	errorDelay = time.Second
	freeVain   = 1000 // RCPT commands without a mail, or over max_recipients, without a mail accepted between them
	freeIdle   = 100  // commands that do nothing, without a mail between them; each further one is an error
	barredTime = 10 * time.Second
)

// Session is one conversation. It starts no goroutine; Serve runs it in the caller's.
type Session struct {
	wire     wire
	settings *Settings
	handler  Handler
	client   Client

	draining  chan struct{} // closed by Drain
	drainOnce sync.Once
	cutting   atomic.Bool // Serve's context has ended
	handed    atomic.Bool // a mail is handed over: the client hears what became of it before the connection is cut

	// Owned by Serve.
	barred   bool   // not admitted: nothing but QUIT
	spoken   bool   // a line was received
	silent   bool   // the client expects TLS: nothing is said in clear
	protocol string // of the client's hello: SMTP, ESMTP, LMTP; "" before it
	command  string // what is being answered, for Handler.Refused
	errors   int    // since the last accepted mail
	idle     int    // commands that did nothing, since the last accepted mail
	vain     int    // RCPT commands that could not lead to anything, since then
	wrong    int    // credentials
	envelope
}

// NewSession prepares a session on c, which it owns from now on. s is not changed.
func NewSession(c net.Conn, s *Settings, h Handler) *Session {
	session := &Session{settings: s, handler: h, draining: make(chan struct{})}
	session.wire.open(c, s.Timeout, session.leaving)
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		addr := a.AddrPort()
		session.client.Addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	return session
}

// Serve runs the session until it ends, and closes the connection. It returns nil after QUIT, when the client left between
// mails, and when Drain ended it; otherwise why it ended: one of the errors of this package, a PanicError, the cause of ctx,
// or the connection's error. When ctx ends the connection is cut; a Transaction.Data under way is waited for, and the client has a second to
// take its reply: without it he would send the mail again.
func (s *Session) Serve(ctx context.Context) error {
	defer s.wire.close()
	defer context.AfterFunc(ctx, func() {
		s.cutting.Store(true)
		if !s.handed.Load() {
			s.wire.socket.Close()
		}
	})()

	return s.conclude(ctx, s.converse(ctx))
}

// conclude says the last words of a session that ended by err, and returns what Serve returns.
func (s *Session) conclude(ctx context.Context, err error) error {
	// What a panicking Handler does when its transaction is closed, or when it is told of the last reply, is its affair too.
	if reset := guard(func() error { s.reset(); return nil }); reset != nil {
		err = reset
	}
	if part := guard(func() error { s.part(err); return nil }); part != nil {
		err = part
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("serve session: %w", context.Cause(ctx))
	case err == nil, err == io.EOF, err == io.ErrUnexpectedEOF, errors.Is(err, errDraining): // unexpected: TLS without its close
		return nil
	}
	return fmt.Errorf("serve session: %w", err)
}

// Drain ends the session with 421 4.3.2: at once while no mail is under way, otherwise after its reply. It does not wait,
// and may be called at any time, from any goroutine, and again.
func (s *Session) Drain() {
	s.drainOnce.Do(func() {
		close(s.draining)
		s.wire.socket.SetReadDeadline(time.Unix(1, 0)) // wakes a wait; wire.await asks leaving
	})
}

// leaving returns errDraining when the session shall end now.
func (s *Session) leaving() error {
	if s.transaction != nil {
		return nil
	}
	select {
	case <-s.draining:
		return errDraining
	default:
		return nil
	}
}

// guard calls f and returns its panic as an error.
func guard(f func() error) (err error) {
	defer recovered(&err)
	return f()
}

// recovered is deferred by who returns a panic as its error.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Value: v, Stack: debug.Stack()}
	}
}

// converse greets the client and obeys its commands. It returns nil when a reply that ends the session is queued.
func (s *Session) converse(ctx context.Context) (err error) {
	defer recovered(&err)
	last, err := s.greet(ctx)
	for !last && err == nil {
		var line []byte
		s.command = ""
		if line, err = s.line(maxLine); err == nil {
			last, err = s.obey(ctx, line)
		}
	}
	return err
}

// part says what there is left to say after err.
func (s *Session) part(err error) {
	if s.silent {
		s.wire.linger()
		return
	}
	if err != nil {
		r := farewell(err)
		if r.IsZero() || s.say(r) != nil {
			return
		}
	}
	if s.wire.flush() == nil {
		s.wire.linger()
	}
}

// greet says who is here, or why nobody is. last tells that it queued the session's last reply.
func (s *Session) greet(ctx context.Context) (last bool, err error) {
	s.silent = s.settings.ImplicitTLS
	r := s.handler.Admit(ctx, &s.client)
	if s.silent {
		return s.greetInTLS(r)
	}
	early, err := s.wire.peek()
	if drained := s.leaving(); drained != nil {
		return false, drained
	}
	switch {
	case err != nil:
		return false, err
	case !r.IsZero():
		s.barred = true
		s.wire.until = time.Now().Add(barredTime)
	case early && foreign(s.wire.received()):
		return false, ErrForeign
	case early:
		return false, ErrEarlyTalker
	default:
		r = s.greeting()
	}
	return r.Close, s.say(r)
}

// greetInTLS greets behind the handshake, or closes before it where refusal, which nobody could read, is not zero.
func (s *Session) greetInTLS(refusal Reply) (last bool, err error) {
	if !refusal.IsZero() {
		s.handler.Refused(&s.client, "", refusal)
		return true, nil
	}
	if err := s.handshake(ErrHandshake); err != nil {
		return false, err
	}
	return false, s.say(s.greeting())
}

func (s *Session) greeting() Reply {
	protocol := "ESMTP"
	if s.settings.LMTP {
		protocol = "LMTP"
	}
	return Reply{Code: 220, Text: s.settings.Hostname + " " + protocol + " lsmtpd"}
}

// line waits for the next line, which is valid until the next one. It has at most longest octets, or maxAuthLine where AUTH
// begins it. An idle session stands in here: what is on its stack is what bounds how many there can be.
func (s *Session) line(longest int) ([]byte, error) {
	begun := false // to wait for the rest of a line
	for {
		if err := s.leaving(); err != nil {
			return nil, err
		}
		line, ok, err := s.cut(longest)
		if ok || err != nil {
			if begun {
				s.wire.until = time.Time{}
			}
			return line, err
		}
		if !begun && len(s.wire.received()) > 0 && s.wire.until.IsZero() && s.settings.Timeout > 0 {
			// An octet now and then is no line.
			begun = true
			s.wire.until = time.Now().Add(s.settings.Timeout)
		}
		if err := s.wire.fill(); err != nil {
			return nil, err
		}
	}
}

// cut takes a line, if all of it is there.
func (s *Session) cut(longest int) (line []byte, ok bool, err error) {
	const auth = "AUTH "
	b := s.wire.received()
	if !s.spoken && foreign(b) {
		return nil, false, ErrForeign
	}
	if len(b) >= len(auth) && equalFold(b[:len(auth)], auth) {
		longest = maxAuthLine
	}
	line, ok, err = s.wire.line(longest, s.settings.LineEndings != RejectBare)
	if ok || err != nil {
		s.spoken = true
	}
	return line, ok, err
}

// openings of other protocols. To answer a browser's request line by line would let a web page send mail.
var openings = [...]string{
	"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH ", "PRI ",
	"SSH-",
	"\x16\x03", // a TLS ClientHello
}

// foreign tells whether the first octets of a client are another protocol's.
func foreign(b []byte) bool {
	for i := range openings {
		if bytes.HasPrefix(b, []byte(openings[i])) {
			return true
		}
	}
	return false
}

// obey runs one command and queues its reply. last tells that it is the session's last.
func (s *Session) obey(ctx context.Context, line []byte) (last bool, err error) {
	before := s.errors
	r, err := s.run(ctx, line)
	if err != nil {
		return false, err
	}
	if s.errors > before {
		if s.errors >= maxErrors {
			return false, ErrTooManyErrors
		}
		if s.errors > freeErrors {
			if err := s.pause(ctx, errorDelay); err != nil {
				return false, err
			}
		}
	}
	if r.IsZero() { // it was said already
		return false, nil
	}
	return r.Close, s.say(r)
}

// run finds a line's command, runs it, and counts it where it was an error.
func (s *Session) run(ctx context.Context, line []byte) (Reply, error) {
	c, arg := parseCommand(line)
	s.command = c.verb
	switch {
	case s.barred && c.flags&barred == 0:
		s.errors++
		return replyBarred, nil
	case c.flags&bare != 0 && arg != "":
		s.errors++
		return replyNoArg, nil
	}
	r, err := c.run(s, ctx, arg)
	if c.flags&idle != 0 {
		s.idle++
	}
	if r.Refuses() && c.flags&pardoned == 0 || c.flags&idle != 0 && s.idle > freeIdle {
		s.errors++
	}
	return r, err
}

// pause sends what is queued and waits, but no longer than the session may last.
func (s *Session) pause(ctx context.Context, d time.Duration) error {
	if err := s.wire.flush(); err != nil {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.draining:
	case <-ctx.Done():
	}
	return nil
}

// say queues r, and tells the Handler of a refusal.
func (s *Session) say(r Reply) error {
	if r.Refuses() {
		s.handler.Refused(&s.client, s.command, r)
	}
	return s.wire.write(r)
}
