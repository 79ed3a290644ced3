package smtp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	blockSize   = 8 << 10  // octets of a pooled buffer: a batch of commands, or of replies
	maxLine     = 2048     // octets of a command line with its end; RFC 5321 section 4.5.3.1.4 asks for 512
	maxAuthLine = 12288    // of AUTH and the lines of its exchange; RFC 4954 section 4
	maxRead     = 64 << 10 // octets of one read of content, and so of what may come back by unread
)

// lastWordsTime is how long the reply to a mail may take, where the connection was to be cut meanwhile.
const lastWordsTime = time.Second

// How long, and for how many octets, a client may go on sending after its last reply.
const (
	lingerTime   = time.Second
	lingerOctets = 1 << 20
)

type block = [blockSize]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// wire frames one connection: lines in, replies out. It holds a buffer only while there are octets in it: an idle session
// is a wait in the kernel and little else.
type wire struct {
	socket  net.Conn           // as it was accepted: its deadlines may be set, and it may be closed, by any goroutine
	conn    net.Conn           // what is read and written: socket, or TLS on it
	raw     syscall.RawConn    // nil where conn cannot say that it is readable without being read: net.Pipe, TLS
	readNow func(uintptr) bool // tryRead, bound once
	readErr error              // of readNow

	timeout time.Duration // longest silence; 0 is no limit
	until   time.Time     // nothing is waited for longer; zero is no limit
	// interrupt is asked before each wait, after the deadline of the wait was set: who then moves the deadline into the
	// past is not overlooked. Its error ends the wait.
	interrupt func() error

	in         []byte // in[start:end] is received and not yet taken; nil while nothing is
	start, end int
	inBlock    *block // what in is made of; nil where a larger buffer had to be made
	out        []byte // replies not yet sent
	outBlock   *block
	outErr     error // of the first flush that failed; nothing is sent after it

	readBy  time.Time // the deadlines as they were last set
	writeBy time.Time

	pace pace
}

// pace is how fast the client sends while measuring is true. The time that it waits for us does not count.
type pace struct {
	measuring bool
	least     int64 // octets a second, on the average, once it was waited for paceGrace; 0 is no limit
	octets    int64
	waited    time.Duration
}

// paceGrace is how long a client may take to get into its stride.
const paceGrace = time.Minute

// count takes n octets that were waited for.
func (p *pace) count(n int, waited time.Duration) error {
	p.octets += int64(n)
	p.waited += waited
	if p.waited > paceGrace && float64(p.octets) < float64(p.least)*p.waited.Seconds() {
		return ErrTooSlow
	}
	return nil
}

// measure begins to measure the client's pace, unless it is measured already. What it sent before it was asked for counts.
func (w *wire) measure(least int64) {
	if !w.pace.measuring {
		w.pace = pace{measuring: true, least: least, octets: int64(w.end - w.start)}
	}
}

// open prepares w, which is not copied after that.
func (w *wire) open(conn net.Conn, timeout time.Duration, interrupt func() error) {
	w.socket, w.conn, w.timeout, w.interrupt = conn, conn, timeout, interrupt
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw, w.readNow = raw, w.tryRead
		}
	}
}

// received returns the octets that are there and not yet taken.
func (w *wire) received() []byte { return w.in[w.start:w.end] }

// line takes a line without its end, which is valid until fill or read. With its end it has at most longest octets, which is
// no more than maxAuthLine. ok is false while the line is not complete. A bare LF ends a line only where bareLF says so.
func (w *wire) line(longest int, bareLF bool) (line []byte, ok bool, err error) {
	b := w.received()
	n := bytes.IndexByte(b[:min(len(b), longest)], '\n')
	if n < 0 {
		if len(b) >= longest {
			return nil, false, ErrLineTooLong
		}
		return nil, false, nil
	}
	w.start += n + 1
	if n > 0 && b[n-1] == '\r' {
		return b[:n-1], true, nil
	}
	if !bareLF {
		return nil, false, ErrBareLF
	}
	return b[:n], true, nil
}

// fill waits for more octets behind received.
func (w *wire) fill() error {
	if w.start == w.end {
		w.releaseIn()
	} else if w.end == len(w.in) {
		w.makeRoom()
	}
	return w.await(w.receive)
}

// makeRoom moves what is received to the front of the buffer; where it is there already, which only a line of AUTH can
// bring about, to a larger one.
func (w *wire) makeRoom() {
	b := w.received()
	if w.start == 0 {
		larger := make([]byte, maxAuthLine)
		n := copy(larger, b)
		w.releaseIn()
		w.in, w.end = larger, n
		return
	}
	w.end = copy(w.in, b)
	w.start = 0
}

// read waits for at least one octet and puts what is there into p.
func (w *wire) read(p []byte) (n int, err error) {
	if b := w.received(); len(b) > 0 {
		n = copy(p, b)
		w.start += n
		return n, nil
	}
	w.releaseIn()
	err = w.await(func() (got int, err error) {
		n, err = w.conn.Read(p[:min(len(p), maxRead)])
		if n > 0 {
			return n, nil
		}
		return 0, err
	})
	return n, err
}

// skip reads n octets and throws them away.
func (w *wire) skip(n int64) error {
	for n > 0 {
		if w.start == w.end {
			if err := w.fill(); err != nil {
				return err
			}
		}
		step := min(n, int64(w.end-w.start))
		w.start += int(step)
		n -= step
	}
	return nil
}

// unread gives back the last octets that read returned.
func (w *wire) unread(b []byte) {
	switch {
	case len(b) == 0:
	case w.in != nil: // they came from there, and are there still
		w.start -= len(b)
	case len(b) > blockSize:
		w.in = bytes.Clone(b)
		w.end = len(b)
	default:
		w.holdIn()
		w.end = copy(w.in, b)
	}
}

// peek looks once, without waiting, whether the client has sent anything. It sees nothing where the connection cannot tell.
func (w *wire) peek() (bool, error) {
	if w.raw == nil {
		return false, nil
	}
	err := w.raw.Read(func(fd uintptr) bool {
		w.tryRead(fd)
		return true
	})
	if err == nil {
		err = w.readErr
	}
	return w.end > w.start, err
}

// await sends the replies that are due, because the client may wait for them, and calls receive, which returns how many
// octets it got, until it got some.
func (w *wire) await(receive func() (int, error)) error {
	if err := w.flush(); err != nil {
		return err
	}
	begun := time.Now()
	by := w.deadline(begun)
	for {
		// A deadline that is too early costs one wake-up; one set before each read would cost every read.
		if !by.IsZero() && (w.readBy.IsZero() || w.readBy.After(by)) {
			if err := w.setReadBy(by); err != nil {
				return err
			}
		}
		if err := w.interrupt(); err != nil {
			return err
		}
		n, err := receive()
		if err == nil && w.pace.measuring {
			return w.pace.count(n, time.Since(begun))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if !by.IsZero() && !time.Now().Before(by) {
			return ErrTimeout
		}
		if err := w.setReadBy(by); err != nil {
			return err
		}
	}
}

// deadline returns when a wait that begins now is over; zero is never.
func (w *wire) deadline(now time.Time) time.Time {
	if w.timeout == 0 {
		return w.until
	}
	by := now.Add(w.timeout)
	if !w.until.IsZero() && w.until.Before(by) {
		return w.until
	}
	return by
}

func (w *wire) setReadBy(by time.Time) error {
	w.readBy = by
	return w.socket.SetReadDeadline(by)
}

// receive reads what is there behind received. Where the connection is readable by a system call, the buffer is taken only
// once there is something to put into it.
func (w *wire) receive() (n int, err error) {
	if w.raw == nil {
		w.holdIn()
		n, err = w.conn.Read(w.in[w.end:])
		w.end += n
		if n > 0 {
			return n, nil
		}
		return 0, err
	}
	before := w.end - w.start
	if err := w.raw.Read(w.readNow); err != nil {
		return 0, err
	}
	return w.end - w.start - before, w.readErr
}

// tryRead reads once. It returns false where that would block.
func (w *wire) tryRead(fd uintptr) bool {
	w.holdIn()
	var n int
	for {
		n, w.readErr = syscall.Read(int(fd), w.in[w.end:])
		if w.readErr != syscall.EINTR {
			break
		}
	}
	if n > 0 {
		w.end += n
		return true
	}
	if w.start == w.end {
		w.releaseIn()
	}
	switch w.readErr {
	case syscall.EAGAIN:
		w.readErr = nil
		return false
	case nil:
		w.readErr = io.EOF
	default:
		w.readErr = os.NewSyscallError("read", w.readErr)
	}
	return true
}

// write queues r.
func (w *wire) write(r Reply) error {
	if w.out == nil {
		w.outBlock = blocks.Get().(*block)
		w.out = w.outBlock[:0]
	}
	w.out = r.appendTo(w.out)
	if len(w.out) > blockSize/2 {
		return w.flush()
	}
	return nil
}

// flush sends what write queued.
func (w *wire) flush() error {
	if w.out == nil || w.outErr != nil {
		return w.outErr
	}
	if w.timeout > 0 {
		// Once in half a timeout is often enough for a client that does not read.
		if now := time.Now(); w.writeBy.Before(now.Add(w.timeout / 2)) {
			w.writeBy = now.Add(w.timeout)
			if err := w.socket.SetWriteDeadline(w.writeBy); err != nil {
				return err
			}
		}
	}
	_, w.outErr = w.conn.Write(w.out)
	w.releaseOut()
	if errors.Is(w.outErr, os.ErrDeadlineExceeded) {
		w.outErr = ErrTimeout
	}
	return w.outErr
}

// hasten gives whoever does not read no longer than d from now on.
func (w *wire) hasten(d time.Duration) { w.timeout, w.writeBy = d, time.Time{} }

// linger lets the client read the last reply: a close with unread input would reset the connection, and the reply be lost.
// Under TLS the client is told first that nothing follows; what it still sends is not worth decrypting.
func (w *wire) linger() {
	if t, ok := w.conn.(*tls.Conn); ok && t.CloseWrite() != nil {
		return
	}
	c, ok := w.socket.(interface{ CloseWrite() error })
	if !ok || c.CloseWrite() != nil {
		return
	}
	w.releaseIn()
	w.holdIn()
	end := time.Now().Add(lingerTime)
	for left := lingerOctets; left > 0; {
		if w.socket.SetReadDeadline(end) != nil {
			return
		}
		n, err := w.socket.Read(w.in)
		left -= n
		early := errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) // Drain did that
		if err != nil && !early {
			return
		}
	}
}

// close cuts the connection and gives the buffers back.
func (w *wire) close() error {
	w.releaseIn()
	w.releaseOut()
	return w.socket.Close()
}

func (w *wire) holdIn() {
	if w.in == nil {
		w.inBlock = blocks.Get().(*block)
		w.in = w.inBlock[:]
	}
}

func (w *wire) releaseIn() {
	if w.inBlock != nil {
		blocks.Put(w.inBlock)
	}
	w.in, w.inBlock, w.start, w.end = nil, nil, 0, 0
}

func (w *wire) releaseOut() {
	if w.outBlock != nil {
		blocks.Put(w.outBlock)
	}
	w.out, w.outBlock = nil, nil
}
