package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"lsmtpd/gateway/memory"
)

const (
	firstHold = 64 << 10 // octets reserved for a mail whose size is not known
	firstRoom = 16 << 10 // octets made ready for it
	maxRoom   = 1 << 30  // octets for a mail whose size is only promised, where no limit bounds it
	minRoom   = 1 << 10  // octets worth a read

	maxHops   = 100 // Received fields: more are a loop (RFC 5321 section 6.3)
	drainTime = time.Minute
)

// data takes a mail: begins it, receives the content, and hands it over.
func (s *Session) data(ctx context.Context, _ string) (Reply, error) {
	switch {
	case s.transaction == nil:
		return replyNeedMail, nil
	case s.tried == 0:
		return replyNeedRcpt, nil
	case s.accepted == 0:
		return replyNoRcpt, nil
	}
	defer s.reset()
	prefix, r := s.transaction.Begin(ctx)
	if !r.IsZero() {
		return r, nil
	}
	hold, err := s.settings.Memory.Hold(ctx, s.reservation(len(prefix)))
	if err != nil {
		return exhausted(err)
	}
	content := memory.NewContent(prefix, s.room(), hold)
	defer content.Release()
	if err := s.say(replyStart); err != nil {
		return Reply{}, err
	}
	s.command = "."
	if r, err := s.receive(ctx, content); err != nil || !r.IsZero() {
		return r, err
	}
	content.Fit()
	r = s.transaction.Data(context.WithoutCancel(ctx), content)[0]
	if !r.Refuses() {
		s.errors, s.idle = 0, 0
	}
	return r, nil
}

// room returns how many octets to make ready for the content.
func (s *Session) room() int {
	if s.params.Size == 0 {
		return firstRoom
	}
	return int(min(s.params.Size, maxRoom)) + minRoom
}

// reservation returns how many octets to hold before they come.
func (s *Session) reservation(prefix int) int64 {
	if s.params.Size == 0 {
		return firstHold
	}
	return int64(memory.Capacity(prefix + s.room()))
}

// exhausted tells what is answered where memory was not to be had: nothing where the session's end was in the way.
func exhausted(err error) (Reply, error) {
	if errors.Is(err, memory.ErrExhausted) {
		return replyNoMemory, nil
	}
	return Reply{}, err
}

// receive reads the content to its end, straight into its buffer. It returns what is wrong with it, if anything is; content
// is of no use then.
func (s *Session) receive(ctx context.Context, content *memory.Content) (Reply, error) {
	limit := s.settings.SizeLimit
	if limit == 0 {
		limit = math.MaxInt64 / 2
	}
	defer func() { s.wire.until = time.Time{} }()
	u := unstuffer{endings: s.settings.LineEndings}
	var size int64
	var refusal Reply // what the client hears at the end of data, if that is near
	held := 0         // octets that decode shall see again: a CR, or none
	for done := false; !done; {
		if err := content.Grow(ctx, minRoom); err != nil {
			if refusal, err = exhausted(err); err != nil {
				return Reply{}, err
			}
			s.drain(content)
		}
		room := content.Room()
		src := u.landing(room)
		if held > 0 {
			src[0] = '\r'
		}
		n, err := s.wire.read(src[held:])
		if err != nil {
			return Reply{}, lost(err, size > limit)
		}
		src = src[:held+n]
		var written, used int
		written, used, done = u.decode(room, src)
		content.Extend(written)
		size += int64(written)
		if done {
			s.wire.unread(src[used:])
		}
		held = len(src) - used
		if size > limit+limit/2 {
			return Reply{}, ErrTooLarge
		}
		switch {
		case size > limit && refusal != replyTooLarge:
			refusal = replyTooLarge
			s.drain(content)
		case !refusal.IsZero():
			content.Truncate(0)
		}
	}
	switch {
	case !refusal.IsZero():
		return refusal, nil
	case size == 0:
		return replyEmpty, nil
	case u.bare && u.endings == RejectBare:
		return replyBareInner, nil
	case hops(content.Body()) > maxHops:
		return replyLoop, nil
	}
	return Reply{}, nil
}

// drain has what follows of the content thrown away, for a time.
func (s *Session) drain(content *memory.Content) {
	content.Discard()
	if s.wire.until.IsZero() {
		s.wire.until = time.Now().Add(drainTime)
	}
}

// lost tells why the end of data was not reached.
func lost(err error, draining bool) error {
	switch {
	case !errors.Is(err, ErrTimeout):
		return fmt.Errorf("%w: %w", ErrLost, err)
	case draining:
		return ErrTooLarge
	}
	return err
}

// hops counts the Received fields in the header of a mail, up to one more than maxHops.
func hops(mail []byte) (n int) {
	for n <= maxHops {
		line, rest, more := bytes.Cut(mail, []byte("\n"))
		if !more || len(bytes.TrimSuffix(line, []byte("\r"))) == 0 {
			break
		}
		name, _, field := bytes.Cut(line, []byte(":"))
		if field && equalFold(bytes.TrimRight(name, " \t"), "RECEIVED") {
			n++
		}
		mail = rest
	}
	return n
}
