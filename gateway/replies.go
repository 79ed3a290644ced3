package gateway

import "lsmtpd/gateway/smtp"

// What the gateway itself answers; the conversation's own replies are in package smtp.
var (
	replyGone       = smtp.Reply{Code: 421, Enhanced: "4.3.2", Text: "This service is no longer offered here", Close: true}
	replyChanged    = smtp.Reply{Code: 421, Enhanced: "4.3.2", Text: "The rules have changed, connect again", Close: true}
	replyDenied     = smtp.Reply{Code: 554, Enhanced: "5.7.1", Text: "Access denied"}
	replyNeedTLS    = smtp.Reply{Code: 530, Enhanced: "5.7.0", Text: "Must issue a STARTTLS command first"}
	replyNeedAuth   = smtp.Reply{Code: 530, Enhanced: "5.7.0", Text: "Authentication required"}
	replyWrong      = smtp.Reply{Code: 535, Enhanced: "5.7.8", Text: "Authentication credentials invalid"}
	replyNoCheck    = smtp.Reply{Code: 454, Enhanced: "4.7.0", Text: "Cannot verify the password now, try again later"}
	replyCrowded    = smtp.Reply{Code: 421, Enhanced: "4.3.2", Text: "Too many connections, try again later", Close: true}
	replyHasty      = smtp.Reply{Code: 421, Enhanced: "4.7.0", Text: "Too many connections in a short time, try again later", Close: true}
	replyTooFast    = smtp.Reply{Code: 450, Enhanced: "4.7.1", Text: "Too many messages in a short time, try again later"}
	replyNoMailbox  = smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "No such recipient here"}
	replyLongKey    = smtp.Reply{Code: 501, Enhanced: "5.1.3", Text: "Recipient address too long"}
	replyManyRoutes = smtp.Reply{Code: 452, Enhanced: "4.5.3", Text: "Too many destinations, send another message"}
	replyTryLater   = smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "Cannot store the message now, try again later"}
	replyFull       = smtp.Reply{Code: 452, Enhanced: "4.3.1", Text: "Insufficient storage, try again later"}
	replyNoMemory   = smtp.Reply{Code: 452, Enhanced: "4.3.1", Text: "Out of memory for messages, try again later"}
	replyUnroutable = smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "Nobody takes mail for this recipient"}
	replyTooLarge   = smtp.Reply{Code: 552, Enhanced: "5.3.4", Text: "Message exceeds the size limit"}
)
