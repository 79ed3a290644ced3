package smtp

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// bdat takes a chunk (RFC 3030). What it carries is read whatever becomes of it: it would be taken for commands.
func (s *Session) bdat(ctx context.Context, arg string) (Reply, error) {
	c, ok := parseChunk(arg)
	switch {
	case !ok:
		return replyBadChunk, nil
	case c.size > s.mostSent():
		return Reply{}, ErrTooLarge
	case s.barred:
		return s.passOver(c, replyBarred)
	case s.transaction == nil:
		return s.passOver(c, replyNeedMail)
	case s.spoiled:
		return s.passOver(c, replySpoiled)
	case s.accepted == 0:
		return s.passOver(c, replyNeedRcpt)
	}
	if s.content == nil {
		r, err := s.begin(ctx)
		switch {
		case err != nil:
			return Reply{}, err
		case !r.IsZero():
			return s.passOver(c, r)
		}
		s.chunked = true
		s.lines.chunks = true
		if s.lines.endings != FixBare || s.params.Body == "BINARYMIME" {
			s.lines.endings = PassBare
		}
	}
	return s.chunk(ctx, c)
}

// chunk is what BDAT says of one.
type chunk struct {
	size int64
	last bool
}

// parseChunk reads the argument of BDAT. What no int64 holds is over every limit, and is taken for the largest.
func parseChunk(arg string) (c chunk, ok bool) {
	size, last, more := strings.Cut(arg, " ")
	if size == "" || len(size) > 20 || strings.Trim(size, "0123456789") != "" {
		return c, false
	}
	c.size, _ = strconv.ParseInt(size, 10, 64)
	c.last = equalFold(strings.TrimLeft(last, " "), "LAST")
	return c, c.last || !more
}

// chunk receives a chunk, and hands the mail over where it is the last.
func (s *Session) chunk(ctx context.Context, c chunk) (Reply, error) {
	if c.size > s.mostSent()-s.size {
		return Reply{}, ErrTooLarge
	}
	if c.last {
		defer s.reset()
	}
	defer func() { s.wire.until = time.Time{} }()
	for left := c.size; left > 0; {
		n, _, err := s.take(ctx, left)
		if err != nil {
			return Reply{}, err
		}
		left -= int64(n)
	}
	switch {
	case c.last:
		if err := s.endLine(ctx); err != nil {
			return Reply{}, err
		}
		return s.finish(ctx, s.verdict())
	case !s.refusal.IsZero():
		s.spoiled = true
		return s.refusal, nil
	}
	return replyOK, nil
}

// endLine takes the CR that ends the last chunk, which waited for an LF.
func (s *Session) endLine(ctx context.Context) error {
	if s.held == 0 {
		return nil
	}
	if err := s.makeRoom(ctx); err != nil {
		return err
	}
	return s.extend(s.lines.bareEnd(s.content.Room(), '\r'))
}

// passOver reads a chunk that is not wanted. The mail that it may have been a part of is spoiled until its last chunk: it
// would be accepted with a part missing.
func (s *Session) passOver(c chunk, r Reply) (Reply, error) {
	s.wire.measure(s.settings.MinRate)
	if err := s.wire.skip(c.size); err != nil {
		return Reply{}, s.lost(err)
	}
	s.chunked, s.spoiled = true, true
	if c.last || s.transaction == nil {
		defer s.reset()
	}
	if c.last {
		return s.answer(r)
	}
	return r, nil
}
