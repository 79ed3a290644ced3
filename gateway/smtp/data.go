package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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

// incoming is the content of the mail under way, as it comes in.
type incoming struct {
	content *memory.Content // nil before DATA and the first chunk
	size    int64           // octets of it so far, thrown away or not
	lines   unstuffer
	held    int   // octets that lines shall see again: a CR, or none
	refusal Reply // why what comes is thrown away; zero while it is kept
}

// data takes a mail: begins it, receives the content, and hands it over.
func (s *Session) data(ctx context.Context, _ string) (Reply, error) {
	switch {
	case s.transaction == nil:
		return replyNeedMail, nil
	case s.chunked, s.params.Body == "BINARYMIME":
		return replyChunks, nil
	case s.accepted == 0 && s.tried > 0 && !s.settings.LMTP:
		return replyNoRcpt, nil
	case s.accepted == 0:
		return replyNeedRcpt, nil
	}
	defer s.reset()
	if r, err := s.begin(ctx); err != nil || !r.IsZero() {
		return r, err
	}
	if err := s.say(replyStart); err != nil {
		return Reply{}, err
	}
	s.command = "."
	if err := s.receive(ctx); err != nil {
		return Reply{}, err
	}
	return s.finish(ctx, s.verdict())
}

// begin makes ready for the content.
func (s *Session) begin(ctx context.Context) (Reply, error) {
	prefix, r := s.transaction.Begin(ctx)
	if !r.IsZero() {
		return r, nil
	}
	hold, err := s.settings.Memory.Hold(ctx, s.reservation(len(prefix)))
	if err != nil {
		return replyNoMemory, ctx.Err()
	}
	s.content = memory.NewContent(prefix, s.room(), hold)
	s.lines = unstuffer{endings: s.settings.LineEndings}
	s.wire.measure(s.settings.MinRate)
	return Reply{}, nil
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

// receive reads what DATA brings, to its end.
func (s *Session) receive(ctx context.Context) error {
	defer func() { s.wire.until = time.Time{} }()
	for {
		if _, done, err := s.take(ctx, maxRead); done || err != nil {
			return err
		}
	}
}

// take reads once, at most most octets, straight into the content's buffer. done tells that it came to the end of data.
func (s *Session) take(ctx context.Context, most int64) (n int, done bool, err error) {
	if err := s.makeRoom(ctx); err != nil {
		return 0, false, err
	}
	room := s.content.Room()
	src := s.lines.landing(room)
	if s.held > 0 {
		src[0] = '\r'
	}
	src = src[:min(int64(len(src)), int64(s.held)+most)]
	if n, err = s.wire.read(src[s.held:]); err != nil {
		return n, false, s.lost(err)
	}
	src = src[:s.held+n]
	written, used, done := s.lines.decode(room, src)
	if done {
		s.wire.unread(src[used:])
	}
	s.held = len(src) - used
	return n, done, s.extend(written)
}

// extend takes n octets that were written to the room of the content.
func (s *Session) extend(n int) error {
	s.content.Extend(n)
	s.size += int64(n)
	switch {
	case s.size > s.mostSent():
		return ErrTooLarge
	case s.size > s.limit() && s.refusal != replyTooLarge:
		s.discard(replyTooLarge)
	case !s.refusal.IsZero():
		s.content.Truncate(0)
	}
	return nil
}

// makeRoom makes room for more content. It may have to wait for memory, which is the reader's time and not the client's.
func (s *Session) makeRoom(ctx context.Context) error {
	if len(s.content.Room()) >= minRoom {
		return nil
	}
	wait := ctx
	if s.settings.Timeout > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, s.settings.Timeout)
		defer cancel()
	}
	if err := s.content.Grow(wait, minRoom); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.discard(replyNoMemory)
	}
	return nil
}

// discard throws away what came and what comes. The client hears of it at the end of data, if that is near.
func (s *Session) discard(r Reply) {
	s.content.Discard()
	s.refusal = r
	if s.wire.until.IsZero() {
		s.wire.until = time.Now().Add(drainTime)
	}
}

// limit returns the octets that a mail may have.
func (s *Session) limit() int64 {
	if s.settings.SizeLimit == 0 {
		return math.MaxInt64 / 2
	}
	return s.settings.SizeLimit
}

// mostSent returns the octets that a mail may have before its session ends: half the limit again.
func (s *Session) mostSent() int64 { return s.limit() + s.limit()/2 }

// verdict returns what is wrong with the content, if anything is.
func (s *Session) verdict() Reply {
	switch {
	case !s.refusal.IsZero():
		return s.refusal
	case s.size == 0:
		return replyEmpty
	case s.lines.bare && s.lines.endings == RejectBare:
		return replyBareInner
	case hops(s.content.Body()) > maxHops:
		return replyLoop
	}
	return Reply{}
}

// finish hands the mail over, unless it is refused.
func (s *Session) finish(ctx context.Context, refusal Reply) (Reply, error) {
	if !refusal.IsZero() {
		return s.answer(refusal)
	}
	s.content.Fit()
	s.handed.Store(true)
	replies := s.transaction.Data(context.WithoutCancel(ctx), s.content)
	s.handed.Store(false)
	if s.cutting.Load() {
		return Reply{}, s.lastWords(ctx, replies)
	}
	if slices.ContainsFunc(replies, func(r Reply) bool { return !r.Refuses() }) {
		s.errors, s.idle, s.vain = 0, 0, 0
	}
	return s.answer(replies...)
}

// lastWords tells the client what became of a mail that was handed over when ctx ended. It returns the cause.
func (s *Session) lastWords(ctx context.Context, replies []Reply) error {
	s.wire.hasten(lastWordsTime)
	last, err := s.answer(replies...)
	if err == nil && s.say(last) == nil && s.wire.flush() == nil {
		s.wire.linger()
	}
	return context.Cause(ctx)
}

// answer returns the reply to a whole mail. In LMTP there is one for each accepted recipient (RFC 2033 section 4.2): it says all
// but the last, which it returns. The last of replies stands for those that are not there.
func (s *Session) answer(replies ...Reply) (Reply, error) {
	if !s.settings.LMTP {
		return replies[0], nil
	}
	of := func(n int) Reply { return replies[min(n, len(replies)-1)] }
	for n := range s.accepted - 1 {
		if err := s.say(of(n)); err != nil {
			return Reply{}, err
		}
	}
	return of(max(s.accepted-1, 0)), nil
}

// lost tells why the end of the content was not reached.
func (s *Session) lost(err error) error {
	_, ours := errors.AsType[*ending](err)
	switch {
	case !ours:
		return fmt.Errorf("%w: %w", ErrLost, err)
	case s.refusal == replyTooLarge:
		return ErrTooLarge
	case s.refusal == replyNoMemory:
		return ErrNoMemory
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
