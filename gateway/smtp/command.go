package smtp

import (
	"bytes"
	"context"
	"strconv"
	"strings"
)

// A command is a verb and what it does. An error of run ends the session.
type command struct {
	verb  string
	run   func(s *Session, ctx context.Context, arg string) (Reply, error)
	flags flags
}

type flags int

const (
	bare     flags = 1 << iota // takes no argument
	idle                       // brings no mail forward: counted, and an error after freeIdle of them
	pardoned                   // its refusals are no errors of the client; what is, run counts itself
	barred                     // runs for a client that was not admitted too
)

var commands = [...]command{
	{"MAIL", (*Session).mail, 0},
	{"RCPT", (*Session).rcpt, pardoned},
	{"DATA", (*Session).data, bare},
	{"BDAT", (*Session).bdat, barred},
	{"QUIT", answer(replyBye), bare | barred},
	{"RSET", (*Session).rset, bare | idle},
	{"EHLO", (*Session).ehlo, idle},
	{"HELO", (*Session).helo, idle},
	{"LHLO", (*Session).lhlo, idle},
	{"NOOP", answer(replyOK), idle},
	{"VRFY", answer(replyVrfy), idle},
	{"HELP", answer(replyHelp), idle},
	{"EXPN", answer(replyNotHere), 0},
	{"ETRN", answer(replyNotHere), 0},
	{"TURN", answer(replyNotHere), 0},
	{"STARTTLS", (*Session).starttls, bare},
	{"AUTH", (*Session).auth, 0},
}

// What is done about lines that hold none of the commands.
var (
	unknown     = command{"", answer(replyUnknown), 0}
	unprintable = command{"", answer(replyControl), 0}
)

// parseCommand finds the command of a line, and its argument without the blanks around it.
func parseCommand(line []byte) (*command, string) {
	for _, c := range line {
		if c < ' ' || c == 0x7f {
			return &unprintable, ""
		}
	}
	verb, arg, _ := bytes.Cut(line, []byte(" "))
	for i := range commands {
		if c := &commands[i]; equalFold(verb, c.verb) {
			return c, string(bytes.Trim(arg, " "))
		}
	}
	return &unknown, ""
}

// equalFold tells whether verb is the capitals upper in any case. No Unicode folding: "ſ" is no S here.
func equalFold[S string | []byte](verb S, upper string) bool {
	if len(verb) != len(upper) {
		return false
	}
	for i := range len(verb) {
		c := verb[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

// answer makes a command that does nothing but reply.
func answer(r Reply) func(*Session, context.Context, string) (Reply, error) {
	return func(*Session, context.Context, string) (Reply, error) { return r, nil }
}

func (s *Session) rset(context.Context, string) (Reply, error) {
	s.reset()
	return replyOK, nil
}

func (s *Session) helo(_ context.Context, arg string) (Reply, error) {
	switch {
	case s.settings.LMTP:
		return replyLHLO, nil
	case !s.hello(arg, "SMTP"):
		return replyBadHelo, nil
	}
	return Reply{Code: 250, Text: s.settings.Hostname}, nil
}

func (s *Session) ehlo(_ context.Context, arg string) (Reply, error) {
	switch {
	case s.settings.LMTP:
		return replyLHLO, nil
	case !s.hello(arg, "ESMTP"):
		return replyBadHelo, nil
	}
	return s.extensions(), nil
}

// lhlo is LMTP's EHLO (RFC 2033 section 4.1).
func (s *Session) lhlo(_ context.Context, arg string) (Reply, error) {
	switch {
	case !s.settings.LMTP:
		return replyUnknown, nil
	case !s.hello(arg, "LMTP"):
		return replyBadHelo, nil
	}
	return s.extensions(), nil
}

// extensions tells what is on offer at this moment of the session.
func (s *Session) extensions() Reply {
	size := "SIZE"
	if s.settings.SizeLimit > 0 {
		size += " " + strconv.FormatInt(s.settings.SizeLimit, 10)
	}
	lines := []string{
		s.settings.Hostname,
		"PIPELINING",
		size,
		"8BITMIME",
		"SMTPUTF8",
		"CHUNKING",
		"BINARYMIME",
		"ENHANCEDSTATUSCODES",
		"DSN",
	}
	if most := s.settings.MaxRecipients; most > 0 {
		lines = append(lines, "LIMITS RCPTMAX="+strconv.Itoa(most))
	}
	if s.settings.TLS != nil && s.client.TLS == "" {
		lines = append(lines, "STARTTLS")
	}
	if s.mayAuth() {
		lines = append(lines, "AUTH PLAIN LOGIN")
	}
	return Reply{Code: 250, Text: strings.Join(lines, "\n")}
}

// hello notes the client's name, and forgets a mail under way. A bad name changes nothing (RFC 5321 section 4.1.4).
func (s *Session) hello(name, protocol string) bool {
	if !validHelo(name) {
		return false
	}
	s.protocol = protocol
	s.reset()
	s.client.Helo = name
	return true
}

// with names the protocol of the mail under way as Received has it (RFC 3848, RFC 6531 section 4.3). HELO's has no variants.
func (s *Session) with() string {
	protocol := s.protocol
	switch {
	case s.params.SMTPUTF8:
		protocol = "UTF8" + strings.TrimPrefix(protocol, "E")
	case protocol != "ESMTP" && protocol != "LMTP":
		return protocol
	}
	if s.client.TLS != "" {
		protocol += "S"
	}
	if s.client.User != "" {
		protocol += "A"
	}
	return protocol
}

// validHelo tells whether name is made as domains and address literals are. It asks for no more: what clients call
// themselves is seldom a name that resolves, and the Received field can carry all of this.
func validHelo(name string) bool {
	if name == "" || len(name) > 255 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !alphanumeric(c) && strings.IndexByte(".-_:[]", c) < 0 {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}
