package smtp

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"lsmtpd/routes/address"
)

// envelope is the mail under way, as far as the session knows it.
type envelope struct {
	transaction Transaction // nil outside of a mail
	params      MailParams
	tried       int  // RCPT commands
	accepted    int  // of them
	chunked     bool // its content comes by BDAT: nothing else may follow
	spoiled     bool // a chunk of it failed: none is kept any more
	incoming
}

// reset forgets the mail under way. Every way out of a mail comes through here: a recipient left behind would get the
// next mail, which may be another tenant's.
func (s *Session) reset() {
	t, content := s.transaction, s.content
	s.envelope = envelope{}
	s.wire.pace = pace{}
	s.client.Protocol = s.with()
	if content != nil {
		content.Release()
	}
	if t != nil {
		t.Close()
	}
}

func (s *Session) mail(ctx context.Context, arg string) (Reply, error) {
	switch {
	case s.protocol == "":
		return replyHello, nil
	case s.transaction != nil:
		return replyNested, nil
	}
	path, ok := cutPrefixFold(arg, "FROM:")
	if !ok {
		return replyMailForm, nil
	}
	from, rest, err := address.ParsePath(path)
	if errors.Is(err, address.ErrBrackets) {
		return replyMailForm, nil
	}
	p, r := parseParams(rest, mailKeywords)
	if !r.IsZero() {
		return r, nil
	}
	switch {
	case errors.Is(err, address.ErrUTF8), !p.SMTPUTF8 && !address.IsASCII(path[:len(path)-len(rest)]):
		return replyUTF8, nil
	case err != nil:
		return replyBadSender, nil
	}
	if limit := s.settings.SizeLimit; limit > 0 && p.Size > limit {
		return replyTooLarge, nil
	}
	s.params = p
	s.client.Protocol = s.with()
	t, r := s.handler.Mail(ctx, &s.client, from, p)
	if !r.IsZero() {
		s.reset()
		return r, nil
	}
	s.transaction = t
	return replyMail, nil
}

// tooMany counts a RCPT that cannot lead to anything: after as many as one mail may have, each further one is an error.
func (s *Session) tooMany() {
	if s.vain++; s.vain > freeVain {
		s.errors++
	}
}

func (s *Session) rcpt(ctx context.Context, arg string) (Reply, error) {
	if s.transaction == nil {
		// No error of the client's: a MAIL that was refused may have many a RCPT in its wake, pipelined.
		if _, _, r := s.parseRcpt(arg); !r.IsZero() {
			s.errors++
		} else {
			s.tooMany()
		}
		return replyNeedMail, nil
	}
	if s.chunked {
		return replyChunks, nil
	}
	s.tried++
	to, p, r := s.parseRcpt(arg)
	if !r.IsZero() {
		s.errors++
		return r, nil
	}
	if limit := s.settings.MaxRecipients; limit > 0 && s.accepted >= limit {
		s.tooMany()
		return replyTooManyTo, nil
	}
	if r := s.transaction.Rcpt(ctx, to, p); !r.IsZero() {
		return r, nil
	}
	s.accepted++
	return replyRcpt, nil
}

func (s *Session) parseRcpt(arg string) (to address.Address, p RcptParams, r Reply) {
	path, ok := cutPrefixFold(arg, "TO:")
	if !ok {
		return to, p, replyRcptForm
	}
	to, rest, err := address.ParsePath(path)
	if errors.Is(err, address.ErrBrackets) {
		return to, p, replyRcptForm
	}
	if p, r = parseParams(rest, rcptKeywords); !r.IsZero() {
		return to, p, r
	}
	if !s.params.SMTPUTF8 && !address.IsASCII(p.ORcpt) {
		return to, p, replyBadParam
	}
	if errors.Is(err, address.ErrNoDomain) && strings.EqualFold(to.Local, "postmaster") {
		to, err = address.Parse("postmaster@" + s.settings.Hostname) // RFC 5321 section 4.5.1
	}
	switch {
	case errors.Is(err, address.ErrUTF8), !s.params.SMTPUTF8 && !address.IsASCII(path[:len(path)-len(rest)]):
		return to, p, replyUTF8
	case err != nil, to.IsNull():
		return to, p, replyBadRcpt
	}
	return to, p, Reply{}
}

// cutPrefixFold takes "FROM:" or "TO:" in any case from s, and blanks behind it: the RFC has none there, clients do.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return strings.TrimLeft(s[len(prefix):], " "), true
}

// keyword is a parameter of MAIL or RCPT. add returns p with its value, which is "" where it has none, or what is wrong.
type keyword[P any] struct {
	name string
	add  func(p P, value string) (P, Reply)
}

var mailKeywords = []keyword[MailParams]{
	{"SIZE", addSize},
	{"BODY", addBody},
	{"SMTPUTF8", addSMTPUTF8},
	{"RET", addRet},
	{"ENVID", addEnvID},
}

var rcptKeywords = []keyword[RcptParams]{
	{"NOTIFY", addNotify},
	{"ORCPT", addORcpt},
}

// parseParams reads what stands behind a path, each keyword once (RFC 5321 section 4.1.2).
func parseParams[P any](s string, known []keyword[P]) (p P, r Reply) {
	if s != "" && s[0] != ' ' {
		return p, replyBadParam
	}
	var seen uint
	for param := range strings.FieldsSeq(s) {
		name, value, valued := strings.Cut(param, "=")
		i := slices.IndexFunc(known, func(k keyword[P]) bool { return equalFold(name, k.name) })
		switch {
		case i < 0:
			return p, replyParam
		case seen&(1<<i) != 0, valued && value == "":
			return p, replyBadParam
		}
		seen |= 1 << i
		if p, r = known[i].add(p, value); !r.IsZero() {
			return p, r
		}
	}
	return p, Reply{}
}

// addSize reads SIZE (RFC 1870 section 3). What no int64 holds is over every limit, and is taken for the largest.
func addSize(p MailParams, value string) (MailParams, Reply) {
	if value == "" || len(value) > 20 || strings.Trim(value, "0123456789") != "" {
		return p, replyBadParam
	}
	p.Size, _ = strconv.ParseInt(value, 10, 64)
	return p, Reply{}
}

// addBody reads BODY (RFC 6152 section 2, RFC 3030 section 3).
func addBody(p MailParams, value string) (MailParams, Reply) {
	for _, known := range []string{"7BIT", "8BITMIME", "BINARYMIME"} {
		if equalFold(value, known) {
			p.Body = known
			return p, Reply{}
		}
	}
	return p, replyBadParam
}

// addSMTPUTF8 reads SMTPUTF8 (RFC 6531 section 3.4), which has no value.
func addSMTPUTF8(p MailParams, value string) (MailParams, Reply) {
	if value != "" {
		return p, replyBadParam
	}
	p.SMTPUTF8 = true
	return p, Reply{}
}
