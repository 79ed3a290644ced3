package smtp

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"time"
)

const (
	authTime    = 30 * time.Second // of one exchange
	maxAuthFail = 3                // wrong credentials of a session: these end it
)

// A mechanism asks for what it needs to know, and returns it. With a Reply that is not zero it did not get it.
type mechanism func(s *Session, initial string) (credentials, Reply, error)

type credentials struct{ user, password string }

// auth runs one exchange (RFC 4954), which ends with whatever the Handler thinks of the credentials.
func (s *Session) auth(ctx context.Context, arg string) (Reply, error) {
	name, initial, _ := strings.Cut(arg, " ")
	switch {
	case !s.settings.Auth:
		return replyNotHere, nil
	case s.protocol == "":
		return replyHello, nil
	case s.transaction != nil:
		return replyNested, nil
	case s.client.User != "":
		return replyAuthTwice, nil
	case !s.mayAuth():
		return replyAuthNeedsTLS, nil
	case name == "":
		return replyAuthForm, nil
	}
	var run mechanism
	switch {
	case equalFold(name, "PLAIN"):
		run = authPlain
	case equalFold(name, "LOGIN"):
		run = authLogin
	default:
		return replyMechanism, nil
	}
	s.wire.until = time.Now().Add(authTime)
	c, r, err := run(s, initial)
	s.wire.until = time.Time{}
	if err != nil || !r.IsZero() {
		return r, err
	}
	return s.verify(ctx, c)
}

// mayAuth tells whether AUTH is offered on this connection: passwords are not sent in clear.
func (s *Session) mayAuth() bool {
	return s.settings.Auth && (s.client.TLS != "" || s.settings.AuthPlaintext)
}

// verify asks the Handler. Nobody is the user "": User says so where nobody authenticated. A NUL is in nobody's password (RFC
// 4616), but to bcrypt a password that is repeated behind one is the same.
func (s *Session) verify(ctx context.Context, c credentials) (Reply, error) {
	r := replyAuthWrong
	if c.user != "" && !strings.Contains(c.password, "\x00") {
		r = s.handler.Auth(ctx, &s.client, c.user, c.password)
	}
	if r.IsZero() {
		s.client.User = c.user
		s.client.Protocol = s.with()
		return replyAuth, nil
	}
	if r.Code == replyAuthWrong.Code {
		s.wrong++
		if s.wrong >= maxAuthFail {
			return Reply{}, ErrAuthFailed
		}
	}
	return r, nil
}

// authPlain asks for [authzid] NUL user NUL password (RFC 4616). Nobody acts for another here.
func authPlain(s *Session, initial string) (credentials, Reply, error) {
	response, r, err := s.challenge("", initial)
	if err != nil || !r.IsZero() {
		return credentials{}, r, err
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return credentials{}, replyBase64, nil
	}
	c := credentials{string(parts[1]), string(parts[2])}
	if as := string(parts[0]); as != "" && as != c.user {
		c = credentials{}
	}
	return c, Reply{}, nil
}

// authLogin asks for user and password, one after the other, as everybody's draft-murchison-sasl-login does. The user may
// come with the command.
func authLogin(s *Session, initial string) (credentials, Reply, error) {
	user, r, err := s.challenge("Username:", initial)
	if err != nil || !r.IsZero() {
		return credentials{}, r, err
	}
	password, r, err := s.challenge("Password:", "")
	return credentials{string(user), string(password)}, r, err
}

// challenge returns the client's response to text, which is asked for only where it did not come with the command. There "="
// stands for an empty one.
func (s *Session) challenge(text, initial string) ([]byte, Reply, error) {
	if initial == "=" {
		return nil, Reply{}, nil
	}
	if initial != "" {
		return decodeResponse([]byte(initial))
	}
	if err := s.say(Reply{Code: 334, Text: base64.StdEncoding.EncodeToString([]byte(text))}); err != nil {
		return nil, Reply{}, err
	}
	line, err := s.line(maxAuthLine)
	if err != nil {
		return nil, Reply{}, err
	}
	if string(line) == "*" {
		return nil, replyCancelled, nil
	}
	return decodeResponse(line)
}

// decodeResponse reads base64 by the letter: the decoder of the library would pass over line ends.
func decodeResponse(line []byte) ([]byte, Reply, error) {
	response := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(response, line)
	if err != nil || bytes.ContainsAny(line, "\r\n") {
		return nil, replyBase64, nil
	}
	return response[:n], Reply{}, nil
}
