package amqptest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Frames, AMQP 0-9-1 section 2.3.5.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE
	frameOverhead  = 8      // octets of a frame that are not its payload
	frameMax       = 131072 // octets of a whole frame: RabbitMQ's
)

// protocolHeader is what a client says first.
const protocolHeader = "AMQP\x00\x00\x09\x01"

// method is a class and a method of it, as they are on the wire.
type method uint32

const (
	connectionStart          method = 10<<16 | 10
	connectionStartOK        method = 10<<16 | 11
	connectionTune           method = 10<<16 | 30
	connectionTuneOK         method = 10<<16 | 31
	connectionOpen           method = 10<<16 | 40
	connectionOpenOK         method = 10<<16 | 41
	connectionClose          method = 10<<16 | 50
	connectionCloseOK        method = 10<<16 | 51
	connectionBlocked        method = 10<<16 | 60
	connectionUnblocked      method = 10<<16 | 61
	connectionUpdateSecret   method = 10<<16 | 70
	connectionUpdateSecretOK method = 10<<16 | 71
	channelOpen              method = 20<<16 | 10
	channelOpenOK            method = 20<<16 | 11
	channelClose             method = 20<<16 | 40
	channelCloseOK           method = 20<<16 | 41
	exchangeDeclare          method = 40<<16 | 10
	exchangeDeclareOK        method = 40<<16 | 11
	exchangeBind             method = 40<<16 | 30
	exchangeBindOK           method = 40<<16 | 31
	queueDeclare             method = 50<<16 | 10
	queueDeclareOK           method = 50<<16 | 11
	queueBind                method = 50<<16 | 20
	queueBindOK              method = 50<<16 | 21
	basicPublish             method = 60<<16 | 40
	basicReturn              method = 60<<16 | 50
	basicAck                 method = 60<<16 | 80
	basicNack                method = 60<<16 | 120
	confirmSelect            method = 85<<16 | 10
	confirmSelectOK          method = 85<<16 | 11
)

// frame is one frame as it came.
type frame struct {
	kind    byte
	channel uint16
	payload []byte
}

func readFrame(r *bufio.Reader, most int) (frame, error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[3:])
	if int64(size) > int64(most-frameOverhead) {
		return frame{}, &amqp.Error{Code: amqp.FrameError, Reason: fmt.Sprintf("FRAME_ERROR - a frame of %d octets", size)}
	}
	payload := make([]byte, size+1)
	if _, err := io.ReadFull(r, payload); err != nil {
		return frame{}, err
	}
	if payload[size] != frameEnd {
		return frame{}, &amqp.Error{Code: amqp.FrameError, Reason: "FRAME_ERROR - no frame-end octet"}
	}
	return frame{head[0], binary.BigEndian.Uint16(head[1:]), payload[:size]}, nil
}

// method parts a method frame into the method and its arguments.
func (f frame) method() (method, *args) {
	a := &args{rest: f.payload}
	return method(a.long()), a
}

func appendFrame(to []byte, kind byte, channel uint16, payload []byte) []byte {
	to = append(to, kind)
	to = binary.BigEndian.AppendUint16(to, channel)
	to = binary.BigEndian.AppendUint32(to, uint32(len(payload)))
	to = append(to, payload...)
	return append(to, frameEnd)
}

// call builds a method with its arguments.
type call []byte

func newCall(m method) call { return binary.BigEndian.AppendUint32(nil, uint32(m)) }

func (c call) octet(v byte) call      { return append(c, v) }
func (c call) short(v uint16) call    { return binary.BigEndian.AppendUint16(c, v) }
func (c call) long(v uint32) call     { return binary.BigEndian.AppendUint32(c, v) }
func (c call) longlong(v uint64) call { return binary.BigEndian.AppendUint64(c, v) }

// shortstr cuts what does not fit, as RabbitMQ does with reasons.
func (c call) shortstr(s string) call {
	s = s[:min(len(s), math.MaxUint8)]
	return append(c.octet(byte(len(s))), s...)
}

func (c call) longstr(s string) call { return append(c.long(uint32(len(s))), s...) }

// errShort is what arguments end with that promise more than they hold.
var errShort = errors.New("the arguments end too soon")

// args takes arguments apart. After the first fault everything is zero, and err says which it was.
type args struct {
	rest []byte
	err  error
}

func (a *args) take(n int) []byte {
	if a.err == nil && (n < 0 || n > len(a.rest)) {
		a.err = errShort
	}
	if a.err != nil {
		return make([]byte, min(8, max(n, 0)))
	}
	taken := a.rest[:n]
	a.rest = a.rest[n:]
	return taken
}

func (a *args) octet() byte      { return a.take(1)[0] }
func (a *args) short() uint16    { return binary.BigEndian.Uint16(a.take(2)) }
func (a *args) long() uint32     { return binary.BigEndian.Uint32(a.take(4)) }
func (a *args) longlong() uint64 { return binary.BigEndian.Uint64(a.take(8)) }

func (a *args) shortstr() string { return a.text(int(a.octet())) }
func (a *args) longstr() string  { return a.text(int(a.long())) }

func (a *args) text(n int) string {
	b := a.take(n)
	if a.err != nil {
		return ""
	}
	return string(b)
}

func (a *args) table() amqp.Table {
	inside := &args{rest: []byte(a.longstr()), err: a.err}
	t := amqp.Table{}
	for len(inside.rest) > 0 && inside.err == nil {
		name := inside.shortstr()
		t[name] = inside.field()
	}
	a.err = inside.err
	return t
}

// field reads one value behind its type, in RabbitMQ's letters.
func (a *args) field() any {
	switch kind := a.octet(); kind {
	case 't':
		return a.octet() != 0
	case 'b':
		return int8(a.octet())
	case 'B':
		return a.octet()
	case 's':
		return int16(a.short())
	case 'u':
		return a.short()
	case 'I':
		return int32(a.long())
	case 'i':
		return a.long()
	case 'l':
		return int64(a.longlong())
	case 'f':
		return math.Float32frombits(a.long())
	case 'd':
		return math.Float64frombits(a.longlong())
	case 'D':
		return amqp.Decimal{Scale: a.octet(), Value: int32(a.long())}
	case 'S':
		return a.longstr()
	case 'x':
		return []byte(a.longstr())
	case 'T':
		return time.Unix(int64(a.longlong()), 0)
	case 'F':
		return a.table()
	case 'A':
		return a.array()
	case 'V':
		return nil
	default:
		if a.err == nil {
			a.err = fmt.Errorf("a field of type %q", kind)
		}
		return nil
	}
}

func (a *args) array() []any {
	inside := &args{rest: []byte(a.longstr()), err: a.err}
	all := []any{}
	for len(inside.rest) > 0 && inside.err == nil {
		all = append(all, inside.field())
	}
	a.err = inside.err
	return all
}
