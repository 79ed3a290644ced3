package amqptest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/certs"

	amqp "github.com/rabbitmq/amqp091-go"
)

// hello is what a client says up to its first open channel.
func hello(heartbeat uint16) []byte {
	start := newCall(connectionStartOK).longstr("").shortstr("PLAIN").longstr("\x00guest\x00guest").shortstr("en_US")
	all := appendFrame([]byte(protocolHeader), frameMethod, 0, start)
	all = appendFrame(all, frameMethod, 0, newCall(connectionTuneOK).short(0).long(0).short(heartbeat))
	all = appendFrame(all, frameMethod, 0, newCall(connectionOpen).shortstr("/").shortstr("").octet(0))
	return appendFrame(all, frameMethod, 1, newCall(channelOpen).shortstr(""))
}

// publishing is a basic.publish without its content.
func publishing() []byte {
	return appendFrame(nil, frameMethod, 1, newCall(basicPublish).short(0).shortstr("x").shortstr("k").octet(0))
}

// header promises a body.
func header(size uint64) []byte {
	return appendFrame(nil, frameHeader, 1, call{}.long(60<<16).longlong(size).short(0))
}

// say sends octets on a connection of its own, and returns a reader of the answers.
func say(t *testing.T, b *Broker, octets ...[]byte) *bufio.Reader {
	t.Helper()
	c, err := net.Dial("tcp", b.Addr())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	for _, o := range octets {
		_, err := c.Write(o)
		must(t, err)
	}
	return bufio.NewReader(c)
}

// await reads frames until one is meant.
func await(t *testing.T, in *bufio.Reader, what string, meant func(frame) bool) frame {
	t.Helper()
	for {
		f, err := readFrame(in, frameMax)
		if err != nil {
			t.Fatalf("%v before %s", err, what)
		}
		if meant(f) {
			return f
		}
	}
}

func TestA_client_that_breaks_the_protocol_is_told_so(t *testing.T) {
	confirm := appendFrame(nil, frameMethod, 1, newCall(confirmSelect).octet(0))
	for name, tt := range map[string]struct {
		octets []byte
		code   uint16
	}{
		"a method between a publish and its header": {append(publishing(), confirm...), amqp.UnexpectedFrame},
		"a method between a header and its body":    {append(append(publishing(), header(1)...), confirm...), amqp.UnexpectedFrame},
		"a header that nothing announced":           {header(1), amqp.UnexpectedFrame},
		"a body before its header":                  {appendFrame(publishing(), frameBody, 1, []byte("x")), amqp.UnexpectedFrame},
		"more of a body than was announced":         {appendFrame(append(publishing(), header(1)...), frameBody, 1, []byte("xx")), amqp.FrameError},
		"properties that end too soon": {append(publishing(),
			appendFrame(nil, frameHeader, 1, call{}.long(60<<16).longlong(0).short(1<<15))...), amqp.SyntaxError},
		"a channel that is not open": {appendFrame(nil, frameMethod, 2, newCall(confirmSelect).octet(0)), amqp.ChannelError},
		"a method of no publisher's": {appendFrame(nil, frameMethod, 1, newCall(60<<16|20)), amqp.NotImplemented},
		"a frame without its end":    {append(publishing()[:len(publishing())-1], 0), amqp.FrameError},
	} {
		in := say(t, Start(t), hello(0), tt.octets)
		f := await(t, in, name, func(f frame) bool { m, _ := f.method(); return m == connectionClose })
		if _, a := f.method(); a.short() != tt.code {
			t.Errorf("%s: closed by %d %q, want %d", name, binary.BigEndian.Uint16(f.payload[4:]), a.shortstr(), tt.code)
		}
	}
}

func TestA_client_of_another_protocol_is_told_which_one_this_is(t *testing.T) {
	in := say(t, Start(t), []byte("GET / HT"))
	if got, err := io.ReadAll(in); string(got) != protocolHeader || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHeartbeats_come_as_often_as_the_client_wants(t *testing.T) {
	in := say(t, Start(t), hello(1))
	await(t, in, "a heartbeat", func(f frame) bool { return f.kind == frameHeartbeat && f.channel == 0 })
}

func TestA_client_logs_in_by_its_certificate_and_silence_comes_after_TLS(t *testing.T) {
	ca := certs.NewAuthority(t)
	b := StartTLS(t, ca.Server(t, tls.VerifyClientCertIfGiven, "127.0.0.1"))
	client := &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, 2, "lsmtpd").TLS(t)}, RootCAs: ca.Pool()}
	conn := dialWith(t, b.URL(), amqp.Config{TLSClientConfig: client, SASL: []amqp.Authentication{&amqp.ExternalAuth{}}})
	confirmed(t, publish(t, channelOf(t, conn), "x"))
	if l := b.Logins(); len(l) != 1 || l[0] != (Login{User: "lsmtpd"}) {
		t.Errorf("logins %v", l)
	}
	b.Freeze()
	silent, err := tls.Dial("tcp", b.Addr(), &tls.Config{RootCAs: ca.Pool()})
	must(t, err)
	defer silent.Close()
	_, err = io.WriteString(silent, protocolHeader)
	must(t, err)
	must(t, silent.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if n, err := silent.Read(make([]byte, 1)); n != 0 || err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("%d octets, %v: want silence behind TLS", n, err)
	}
	b.Thaw() // dialWith's connection closes in good order
}

// FuzzProperties holds that no content header makes the double panic.
func FuzzProperties(f *testing.F) {
	f.Add([]byte(call{}.long(60 << 16).longlong(3).short(1 << 13).longstr("\x01nF\x00\x00\x00\x04\x01nt\x01")))
	f.Add([]byte(call{}.long(60 << 16).longlong(3).short(0xffff).shortstr("text/plain")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = contentSize(b)
		if p, err := properties(b); err == nil && len(p.Headers) > len(b) {
			t.Errorf("%d headers out of %d octets", len(p.Headers), len(b))
		}
	})
}
