package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// handshakeTime is the longest that a TLS handshake takes.
const handshakeTime = 30 * time.Second

// starttls (RFC 3207) says that it is ready before it looks at what came behind the command: the client is told the same
// whether that was in one segment with it or not.
func (s *Session) starttls(context.Context, string) (Reply, error) {
	switch {
	case s.client.TLS != "":
		return replyInTLS, nil
	case s.settings.TLS == nil:
		return replyNotHere, nil
	}
	if err := s.say(replyTLS); err != nil {
		return Reply{}, err
	}
	if err := s.wire.flush(); err != nil {
		return Reply{}, err
	}
	s.reset()
	s.protocol = ""
	s.client.Helo, s.client.Protocol, s.client.User = "", "", ""
	return Reply{}, s.handshake(ErrStartTLSInjection)
}

// handshake puts TLS on the connection. Until it succeeds nothing is said: the client expects no octet in clear. plaintext
// is the error where the client goes on without TLS.
func (s *Session) handshake(plaintext error) error {
	s.silent = true
	if len(s.wire.received()) > 0 {
		return plaintext
	}
	state, err := s.wire.secure(s.settings.TLS)
	if drained := s.leaving(); drained != nil {
		return drained
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%w: %w", plaintext, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	s.silent = false
	s.client.TLS = strings.ReplaceAll(tls.VersionName(state.Version), " ", "") + " " + tls.CipherSuiteName(state.CipherSuite)
	return nil
}

// secure makes the server's side of a handshake. There must be nothing received.
func (w *wire) secure(config *tls.Config) (tls.ConnectionState, error) {
	w.releaseIn()
	if err := w.socket.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return tls.ConnectionState{}, err
	}
	// Who moved the deadline into the past before it was set here is not overlooked, as in await.
	if err := w.interrupt(); err != nil {
		return tls.ConnectionState{}, err
	}
	conn := tls.Server(w.socket, config)
	if err := conn.Handshake(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrTimeout
		}
		return tls.ConnectionState{}, err
	}
	w.conn, w.raw, w.readNow = conn, nil, nil
	w.readBy, w.writeBy = time.Time{}, time.Time{}
	return conn.ConnectionState(), w.socket.SetDeadline(time.Time{})
}
