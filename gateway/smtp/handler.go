// Package smtp speaks the server's side of SMTP (RFC 5321) or LMTP (RFC 2033) on one connection: framing, TLS, commands,
// replies, the end of data.
// It knows no YAML and no AMQP: what a session may do, its Handler says.
package smtp

import (
	"context"
	"net/netip"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"
)

// Client is what is known of the peer. The session writes it between commands only.
type Client struct {
	Addr     netip.AddrPort // the proxied one behind PROXY; invalid on a Unix socket
	Helo     string         // the argument of EHLO, HELO or LHLO; printable
	Protocol string         // "with" of Received (RFC 3848, RFC 6531): SMTP, ESMTP, ESMTPS, UTF8SMTP, LMTP …; of the transaction under way
	TLS      string         // version and cipher suite; "" in clear
	User     string         // who authenticated; "" for nobody
}

// MailParams are the parameters of MAIL (RFC 1870, 6152, 6531, 3461), validated.
type MailParams struct {
	Size     int64  // octets; 0 where the client did not say
	Body     string // "" | 7BIT | 8BITMIME | BINARYMIME
	SMTPUTF8 bool
	Ret      string // "" | FULL | HDRS
	EnvID    string // xtext, as it was sent
}

// RcptParams are the parameters of RCPT (RFC 3461), validated.
type RcptParams struct {
	Notify string // "" | NEVER | a list of SUCCESS, FAILURE, DELAY
	ORcpt  string // type;xtext, as it was sent
}

// Handler is what a session asks of its owner. Its methods are called by the session's goroutine, one at a time. A panic in
// one of them, or in a Transaction, ends that session with 421 4.3.0.
type Handler interface {
	// Admit is asked before the handshake and the greeting. A zero Reply admits. Any other is the greeting; with implicit TLS,
	// where nobody could read it, the connection is closed.
	Admit(ctx context.Context, c *Client) Reply
	// Auth is asked for each complete AUTH exchange. A zero Reply accepts, and the session then sets Client.User. A 535 says that
	// the credentials are wrong: the third one ends the session.
	Auth(ctx context.Context, c *Client, user, password string) Reply
	// Mail begins a transaction. With a Reply that is not zero there is none.
	Mail(ctx context.Context, c *Client, from address.Address, p MailParams) (Transaction, Reply)
	// Refused is told every reply of class 4 and 5 as it is queued. command is the verb in capitals, "." for the end of data,
	// or "" where no known command is answered: the greeting, a time-out, an unknown command. The last chunk's is "BDAT".
	Refused(c *Client, command string, r Reply)
}

// Transaction is one mail from MAIL to the reply after the final dot.
type Transaction interface {
	// Rcpt is asked for each recipient within max_recipients. A zero Reply accepts it.
	Rcpt(ctx context.Context, to address.Address, p RcptParams) Reply
	// Begin is called before 354 or the first chunk. It returns what goes before the content (the Received field), or a refusal.
	Begin(ctx context.Context) (prefix []byte, r Reply)
	// Data gets the whole mail. It returns one Reply (LMTP: one for each accepted recipient, in order) when the mail is safe or
	// refused; a zero Reply is not allowed, and the last one stands for those that are missing. c is the session's: who needs it longer retains it. ctx is not cancelled when the client goes away.
	Data(ctx context.Context, c *memory.Content) []Reply
	// Close is called once, on every way out.
	Close()
}
