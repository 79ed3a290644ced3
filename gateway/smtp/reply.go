package smtp

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Reply is what the server answers. The zero Reply is the command's own success.
type Reply struct {
	Code     int
	Enhanced string // like "5.7.1"; "" on the replies that RFC 2034 excepts
	Text     string // lines are parted by "\n"; whatever is not printable ASCII is sent as "?"
	Close    bool   // the session ends after it
}

// IsZero tells the command's own success.
func (r Reply) IsZero() bool { return r.Code == 0 }

// Refuses tells the replies of class 4 and 5.
func (r Reply) Refuses() bool { return r.Code >= 400 }

// appendTo appends r as RFC 5321 section 4.2 and RFC 2034 section 4 write it: each line with both codes.
func (r Reply) appendTo(b []byte) []byte {
	for rest, more := r.Text, true; more; {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if r.Enhanced != "" {
			b = append(b, r.Enhanced...)
			b = append(b, ' ')
		}
		for i := range len(line) {
			c := line[i]
			if c < ' ' || c > '~' {
				c = '?'
			}
			b = append(b, c)
		}
		b = append(b, "\r\n"...)
	}
	return b
}

// Every reply of the server that does not depend on settings, in the order of a session. The Handler's own are not here.
var (
	replyBarred       = Reply{Code: 503, Enhanced: "5.5.1", Text: "Access denied"}
	replyEarly        = Reply{Code: 554, Enhanced: "5.5.0", Text: "Spoke before the greeting", Close: true}
	replyForeign      = Reply{Code: 521, Enhanced: "5.5.2", Text: "This is an SMTP port", Close: true}
	replyDraining     = Reply{Code: 421, Enhanced: "4.3.2", Text: "Service not available, closing", Close: true}
	replyTimeout      = Reply{Code: 421, Enhanced: "4.4.2", Text: "Timeout", Close: true}
	replyPanic        = Reply{Code: 421, Enhanced: "4.3.0", Text: "Internal error", Close: true}
	replyTooMany      = Reply{Code: 421, Enhanced: "4.7.0", Text: "Too many errors", Close: true}
	replyTooLong      = Reply{Code: 500, Enhanced: "5.5.2", Text: "Line too long", Close: true}
	replyBareLF       = Reply{Code: 500, Enhanced: "5.5.2", Text: "Lines end in CR LF", Close: true}
	replyControl      = Reply{Code: 500, Enhanced: "5.5.2", Text: "Control character in a command"}
	replyUnknown      = Reply{Code: 500, Enhanced: "5.5.2", Text: "Command not recognized"}
	replyBadChunk     = Reply{Code: 521, Enhanced: "5.5.4", Text: "Syntax: BDAT size [LAST]", Close: true}
	replyNotHere      = Reply{Code: 502, Enhanced: "5.5.1", Text: "Command not implemented"}
	replyNoArg        = Reply{Code: 501, Enhanced: "5.5.4", Text: "Command takes no argument"}
	replyBadHelo      = Reply{Code: 501, Enhanced: "5.5.4", Text: "Give the name of your host"}
	replyLHLO         = Reply{Code: 500, Enhanced: "5.5.1", Text: "This is LMTP: send LHLO"}
	replyInTLS        = Reply{Code: 503, Enhanced: "5.5.1", Text: "TLS is active already"}
	replyAuthForm     = Reply{Code: 501, Enhanced: "5.5.4", Text: "Syntax: AUTH mechanism"}
	replyAuthTwice    = Reply{Code: 503, Enhanced: "5.5.1", Text: "Authenticated already"}
	replyAuthNeedsTLS = Reply{Code: 538, Enhanced: "5.7.11", Text: "Authentication needs TLS"}
	replyMechanism    = Reply{Code: 504, Enhanced: "5.5.4", Text: "Mechanism not offered"}
	replyBase64       = Reply{Code: 501, Enhanced: "5.5.2", Text: "Malformed response"}
	replyCancelled    = Reply{Code: 501, Enhanced: "5.7.0", Text: "Authentication cancelled"}
	replyAuthWrong    = Reply{Code: 535, Enhanced: "5.7.8", Text: "Authentication failed"}
	replyAuthTooOften = Reply{Code: 421, Enhanced: "4.7.0", Text: "Authentication failed too often", Close: true}
	replyHello        = Reply{Code: 503, Enhanced: "5.5.1", Text: "Send EHLO or HELO first"}
	replyNested       = Reply{Code: 503, Enhanced: "5.5.1", Text: "A mail is under way"}
	replyNeedMail     = Reply{Code: 503, Enhanced: "5.5.1", Text: "Send MAIL first"}
	replyNeedRcpt     = Reply{Code: 503, Enhanced: "5.5.1", Text: "Send RCPT first"}
	replyChunks       = Reply{Code: 503, Enhanced: "5.5.1", Text: "Send BDAT"}
	replyNoRcpt       = Reply{Code: 554, Enhanced: "5.5.1", Text: "No valid recipients"}
	replyMailForm     = Reply{Code: 501, Enhanced: "5.5.4", Text: "Syntax: MAIL FROM:<address>"}
	replyRcptForm     = Reply{Code: 501, Enhanced: "5.5.4", Text: "Syntax: RCPT TO:<address>"}
	replyBadSender    = Reply{Code: 501, Enhanced: "5.1.7", Text: "Bad sender address"}
	replyBadRcpt      = Reply{Code: 501, Enhanced: "5.1.3", Text: "Bad recipient address"}
	replyUTF8         = Reply{Code: 553, Enhanced: "5.6.7", Text: "Address needs SMTPUTF8 and valid UTF-8"}
	replyParam        = Reply{Code: 555, Enhanced: "5.5.4", Text: "Parameter not recognized"}
	replyBadParam     = Reply{Code: 501, Enhanced: "5.5.4", Text: "Bad value of a parameter"}
	replyTooLarge     = Reply{Code: 552, Enhanced: "5.3.4", Text: "Message exceeds the size limit"}
	replyFarTooLarge  = Reply{Code: 552, Enhanced: "5.3.4", Text: "Message exceeds the size limit", Close: true}
	replyTooManyTo    = Reply{Code: 452, Enhanced: "4.5.3", Text: "Too many recipients"}
	replyBareInner    = Reply{Code: 550, Enhanced: "5.6.0", Text: "Bare CR or LF in the message"}
	replySpoiled      = Reply{Code: 503, Enhanced: "5.5.1", Text: "An earlier chunk failed"}
	replyNoMemory     = Reply{Code: 452, Enhanced: "4.3.1", Text: "Too much mail at once, try again later"}
	replyNoMemoryEnd  = Reply{Code: 452, Enhanced: "4.3.1", Text: "Too much mail at once, try again later", Close: true}
	replyTooSlow      = Reply{Code: 421, Enhanced: "4.4.2", Text: "Too slow", Close: true}
	replyEmpty        = Reply{Code: 554, Enhanced: "5.6.0", Text: "No message"}
	replyLoop         = Reply{Code: 554, Enhanced: "5.4.6", Text: "Too many hops"}

	replyBye   = Reply{Code: 221, Enhanced: "2.0.0", Text: "Bye", Close: true}
	replyHelp  = Reply{Code: 214, Enhanced: "2.0.0", Text: "See RFC 5321"}
	replyOK    = Reply{Code: 250, Enhanced: "2.0.0", Text: "Ok"}
	replyMail  = Reply{Code: 250, Enhanced: "2.1.0", Text: "Ok"}
	replyRcpt  = Reply{Code: 250, Enhanced: "2.1.5", Text: "Ok"}
	replyVrfy  = Reply{Code: 252, Enhanced: "2.1.5", Text: "Send mail to find out"}
	replyTLS   = Reply{Code: 220, Enhanced: "2.0.0", Text: "Ready to start TLS"}
	replyAuth  = Reply{Code: 235, Enhanced: "2.7.0", Text: "Authenticated"}
	replyStart = Reply{Code: 354, Text: "End data with <CR><LF>.<CR><LF>"}
)

// Why a session ended otherwise than by QUIT, by the client's leaving between mails or by Drain. Serve wraps them.
var (
	ErrTimeout       error = &ending{"client silent for too long", replyTimeout}
	ErrLineTooLong   error = &ending{"command line too long", replyTooLong}
	ErrBareLF        error = &ending{"command ended by a bare LF", replyBareLF}
	ErrEarlyTalker   error = &ending{"client spoke before the greeting", replyEarly}
	ErrForeign       error = &ending{"client speaks another protocol", replyForeign}
	ErrTooSlow       error = &ending{"client too slow", replyTooSlow}
	ErrNoMemory      error = &ending{"no memory for a message", replyNoMemoryEnd}
	ErrAuthFailed    error = &ending{"wrong credentials, too often", replyAuthTooOften}
	ErrTooManyErrors error = &ending{"too many errors", replyTooMany}
	ErrTooLarge      error = &ending{"message far over the size limit", replyFarTooLarge}
	ErrLost          error = &ending{why: "connection lost inside a message"}
	ErrHandshake     error = &ending{why: "TLS handshake failed"}
	// ErrStartTLSInjection tells plaintext behind STARTTLS: somebody in between wants it taken for what TLS protects.
	ErrStartTLSInjection error = &ending{why: "plaintext behind STARTTLS"}

	errDraining error = &ending{"session drained", replyDraining}
)

// An ending is an error that ends a session. Its last reply is what the client is told; zero where nobody is there to be told.
type ending struct {
	why  string
	last Reply
}

func (e *ending) Error() string { return e.why }

// PanicError tells that a session was ended by a panic, its own or its Handler's.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic in a session: %v", e.Value) }

// farewell returns what the client is told when err ends its session; zero where nobody is there to be told.
func farewell(err error) Reply {
	if _, ok := errors.AsType[*PanicError](err); ok {
		return replyPanic
	}
	if e, ok := errors.AsType[*ending](err); ok {
		return e.last
	}
	return Reply{}
}
