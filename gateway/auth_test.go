package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"

	"golang.org/x/crypto/bcrypt"
)

// hashOf is a cheap hash of password.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// guarded is a listener with these users, name by name and password.
func guarded(t testing.TB, name string, people ...string) *listener {
	t.Helper()
	auth := &config.Auth{Required: true}
	for i := 0; i < len(people); i += 2 {
		auth.Users = append(auth.Users, config.User{Name: people[i], PasswordHash: hashOf(t, people[i+1])})
	}
	l := &routes.Listener{Listener: &config.Listener{Name: name, Auth: auth}}
	return &listener{Listener: l, users: users(auth), state: &state{verifying: make(chan struct{}, 1)}}
}

// counting is an authenticator that counts its verifications.
func counting() (a *authenticator, count *atomic.Int64) {
	a, count = newAuthenticator(), new(atomic.Int64)
	a.verify = func(hash, password []byte) error {
		count.Add(1)
		return bcrypt.CompareHashAndPassword(hash, password)
	}
	return a, count
}

func TestA_password_is_verified_once_for_some_minutes_and_a_wrong_one_each_time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, verified := counting()
		l := guarded(t, "in", "ann", "right", "bob", "other")
		check := func(user, password string, right bool, cost int64) {
			t.Helper()
			before := verified.Load()
			hash, err := a.check(t.Context(), l, user, password)
			if right && (err != nil || hash != l.users[user]) || !right && !errors.Is(err, errWrongPassword) {
				t.Errorf("%s with %q: %q, %v", user, password, hash, err)
			}
			if n := verified.Load() - before; n != cost {
				t.Errorf("%s with %q: %d verifications, want %d", user, password, n, cost)
			}
		}
		check("ann", "wrong", false, 1)
		check("ann", "right", true, 1)
		check("ann", "right", true, 0)
		check("ann", "wrong", false, 1)
		check("ann", "right ", false, 1)
		check("bob", "right", false, 1)
		check("nobody", "right", false, 1)
		check("", "", false, 1)
		time.Sleep(rememberedFor)
		check("ann", "right", true, 1)

		stored := l.users["ann"]
		l.users["ann"] = hashOf(t, "right") // the same password, given anew
		check("ann", "right", true, 1)
		l.users["ann"] = stored
		check("ann", "right", true, 0)
		delete(l.users, "ann")
		check("ann", "right", false, 1)
	})
}

func TestAn_unknown_user_costs_what_one_of_the_listeners_users_costs_and_never_gets_in(t *testing.T) {
	l := guarded(t, "in", "ann", "one", "bob", "two", "eve", "three")
	a := newAuthenticator()
	against := map[string]bool{}
	a.verify = func(hash, _ []byte) error {
		against[string(hash)] = true
		return nil // as if it were right
	}
	for i := range 100 {
		name := fmt.Sprintf("nobody%d", i)
		if _, err := a.check(t.Context(), l, name, "one"); !errors.Is(err, errWrongPassword) {
			t.Fatalf("%s: %v", name, err)
		}
		first := a.standIn(l, name)
		if again := a.standIn(l, name); again != first {
			t.Errorf("%s is verified against several hashes", name)
		}
	}
	for name, hash := range l.users {
		if !against[hash] {
			t.Errorf("nobody was verified against the hash of %s", name)
		}
	}
	if _, err := a.check(t.Context(), guarded(t, "empty"), "ann", ""); !errors.Is(err, errWrongPassword) {
		t.Errorf("where there are no users: %v", err)
	}
}

func TestPasswords_are_verified_one_at_a_time_a_listener_and_two_in_all_and_nobody_waits_for_long(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthenticator()
		running, most := atomic.Int64{}, atomic.Int64{}
		end := make(chan struct{})
		a.verify = func(_, _ []byte) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			<-end
			return nil
		}
		listeners := []*listener{guarded(t, "a", "u", "p"), guarded(t, "b", "u", "p"), guarded(t, "c", "u", "p")}
		begun := time.Now()
		results := make(chan error, 9)
		check := func(ctx context.Context, l *listener) {
			_, err := a.check(ctx, l, "u", "p")
			results <- err
		}
		go check(t.Context(), listeners[0])
		synctest.Wait()
		go check(t.Context(), listeners[0]) // waits for its own listener's
		synctest.Wait()
		if n := running.Load(); n != 1 {
			t.Errorf("%d verifications of one listener at once", n)
		}
		go check(t.Context(), listeners[1])
		synctest.Wait()
		go check(t.Context(), listeners[2]) // waits for the process's
		synctest.Wait()
		if n := running.Load(); n != 2 {
			t.Errorf("%d verifications at once", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		go check(gone, listeners[2])
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("who was cut: %v", err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, errBusy) {
				t.Errorf("who waited too long: %v", err)
			}
		}
		if waited := time.Since(begun); waited != verificationWait {
			t.Errorf("they waited %v", waited)
		}
		close(end)
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		for _, l := range listeners {
			if _, err := a.check(t.Context(), l, "u", "p"); err != nil {
				t.Errorf("%s afterwards: %v", l.Name, err)
			}
		}
		if n := most.Load(); n > verificationsAtOnce || len(a.slots) != 0 {
			t.Errorf("%d verifications at once, %d slots taken at the end", n, len(a.slots))
		}
	})
}

func TestA_panic_in_a_verification_takes_no_slot_with_it(t *testing.T) {
	a := newAuthenticator()
	l := guarded(t, "in", "ann", "right")
	a.verify = func(_, _ []byte) error { panic("odd hash") }
	for range verificationsAtOnce + 1 {
		func() {
			defer func() { recover() }()
			a.check(t.Context(), l, "ann", "right")
		}()
	}
	if len(a.slots) != 0 || len(l.state.verifying) != 0 {
		t.Errorf("%d slots of the process and %d of the listener are taken", len(a.slots), len(l.state.verifying))
	}
}

func TestWhat_is_remembered_is_bounded_and_what_is_over_goes_first(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthenticator()
		old := mostRemembered / 2
		for i := range mostRemembered {
			a.remember(a.proof(fmt.Sprint(i)))
			if i == old-1 {
				time.Sleep(rememberedFor / 2)
			}
		}
		time.Sleep(rememberedFor / 2)
		a.remember(a.proof("one more"))
		if n := len(a.remembered); n != mostRemembered-old+1 || !a.remembers(a.proof("one more")) || !a.remembers(a.proof(fmt.Sprint(old))) {
			t.Errorf("%d are remembered", n)
		}
		for i := range 2 * mostRemembered {
			a.remember(a.proof("new", fmt.Sprint(i)))
		}
		if n := len(a.remembered); n != mostRemembered {
			t.Errorf("%d are remembered, %d at most", n, mostRemembered)
		}
	})
}

func TestNo_two_lists_of_texts_give_one_proof_and_no_two_processes_the_same(t *testing.T) {
	a := newAuthenticator()
	if a.proof("a", "bc") == a.proof("ab", "c") || a.proof("a") == a.proof("a", "") {
		t.Error("two lists of texts give one proof")
	}
	if a.proof("a") == newAuthenticator().proof("a") {
		t.Error("the proof is not this process's own")
	}
}
