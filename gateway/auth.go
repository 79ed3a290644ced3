package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	verificationsAtOnce = 2 // of the process; one a listener. Each is a processor for as long as its hash costs
	verificationWait    = 5 * time.Second
	rememberedFor       = 5 * time.Minute // a right password, without another verification
	mostRemembered      = 10_000
)

var (
	errWrongPassword = errors.New("wrong user or password")
	errBusy          = errors.New("too many passwords to verify")
)

// authenticator checks passwords for every listener.
type authenticator struct {
	verify func(hash, password []byte) error // bcrypt's, which is slow on purpose
	slots  chan struct{}                     // holds a token for each verification under way
	secret []byte                            // this process's own: what is remembered is of no use elsewhere

	// guarded by mu
	mu         sync.Mutex
	remembered map[proof]time.Time // until when
}

// proof stands for a right password. It is made of the stored hash too, so that none outlives its user.
type proof [sha256.Size]byte

func newAuthenticator() *authenticator {
	a := &authenticator{
		verify:     bcrypt.CompareHashAndPassword,
		slots:      make(chan struct{}, verificationsAtOnce),
		secret:     make([]byte, sha256.Size),
		remembered: map[proof]time.Time{},
	}
	rand.Read(a.secret)
	return a
}

// check returns the stored hash that password has as user's at l. Its errors are errWrongPassword, errBusy, ctx's, and those of
// a hash that cannot be used.
func (a *authenticator) check(ctx context.Context, l *listener, user, password string) (hash string, err error) {
	hash, known := l.users[user]
	p := a.proof(l.Name, user, hash, password)
	if known && a.remembers(p) {
		return hash, nil
	}
	against := hash
	if !known {
		against = a.standIn(l, user)
	}
	if against == "" {
		return "", errWrongPassword // nobody has a password here
	}
	release, err := a.admit(ctx, l)
	if err != nil {
		return "", err
	}
	err = func() error {
		defer release() // a panic costs its session, and no slot
		return a.verify([]byte(against), []byte(password))
	}()
	switch {
	case !known || errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
		return "", errWrongPassword
	case err != nil:
		return "", err
	}
	a.remember(p)
	return hash, nil
}

// standIn is the hash that an unknown user's password is verified against, in vain: whoever measures the time that takes shall
// not learn which names there are. It is some user's, the same one for the same name, as costs may differ.
func (a *authenticator) standIn(l *listener, user string) string {
	if l.Auth == nil || len(l.Auth.Users) == 0 {
		return ""
	}
	p := a.proof(l.Name, user)
	return l.Auth.Users[binary.BigEndian.Uint64(p[:])%uint64(len(l.Auth.Users))].PasswordHash
}

// admit waits until one more password of l may be verified.
func (a *authenticator) admit(ctx context.Context, l *listener) (release func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, verificationWait, errBusy)
	defer cancel()
	own := l.state.verifying
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		<-own
		return nil, context.Cause(ctx)
	}
	return func() { <-a.slots; <-own }, nil
}

// proof hashes texts, each begun by its length so that no two lists of them look alike.
func (a *authenticator) proof(texts ...string) (p proof) {
	h := hmac.New(sha256.New, a.secret)
	for _, text := range texts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(text)))
		h.Write(length[:])
		h.Write([]byte(text))
	}
	h.Sum(p[:0])
	return p
}

func (a *authenticator) remembers(p proof) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, found := a.remembered[p]
	return found && time.Now().Before(until)
}

// remember makes room by forgetting what is over; if nothing is, any one.
func (a *authenticator) remember(p proof) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if len(a.remembered) >= mostRemembered {
		for old, until := range a.remembered {
			if !now.Before(until) {
				delete(a.remembered, old)
			}
		}
	}
	for old := range a.remembered {
		if len(a.remembered) < mostRemembered {
			break
		}
		delete(a.remembered, old)
	}
	a.remembered[p] = now.Add(rememberedFor)
}
