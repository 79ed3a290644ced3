package gateway

import (
	"sync/atomic"

	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// running is a table and what was made of it. It is replaced as a whole; whoever loaded one may keep it.
type running struct {
	table      *routes.Table
	generation uint64
	listeners  map[string]*listener // by address
	most       int                  // connections at once; 0 is no limit
}

// listener is a listener of the table and what belongs to it while it runs.
type listener struct {
	*routes.Listener
	settings *smtp.Settings
	users    map[string]string // the hash of each user's password
	state    *state
}

// state outlives a reload: it is carried over by the listener's name.
type state struct {
	accepted   atomic.Uint64 // messages that got 250
	spooled    atomic.Uint64 // deliveries that went to the spool
	confirmed  atomic.Uint64 // deliveries that the broker confirmed at once
	refused    atomic.Uint64 // replies of class 4 and 5
	partly     atomic.Uint64 // messages refused though a part of them is confirmed
	injections atomic.Uint64 // sessions with plaintext behind STARTTLS
	refusals   refusalLog
	memory     *memory.Share // of the messages that are under way
	open       int           // sessions that were let in; guarded by limits.mu
	outside    int           // sessions that were not; guarded by limits.mu
	verifying  chan struct{} // holds a token while a password is verified
}

// run makes a table ready to be put in force, after old, which may be nil. The messages of its listeners share b.
func run(t *routes.Table, old *running, b *memory.Budget) *running {
	states := map[string]*state{}
	r := &running{table: t, generation: 1, listeners: make(map[string]*listener, len(t.Listeners))}
	r.most, _ = affordable(t.Config)
	if old != nil {
		r.generation = old.generation + 1
		for _, l := range old.listeners {
			states[l.Name] = l.state
		}
	}
	for _, l := range t.Listeners {
		s := states[l.Name]
		if s == nil {
			s = &state{verifying: make(chan struct{}, 1), memory: b.Share(0)}
		}
		s.memory.Resize(l.MaxMemory.Of(t.Config.Limits.Memory))
		r.listeners[l.Address] = &listener{Listener: l, settings: settings(l, t.Config, s.memory), users: users(l.Auth), state: s}
	}
	return r
}

// since tells what becomes of each listener when r is put in force after old, which may be nil. sessions are those open, by
// address. That a kept one's settings changed is for the caller to see, who has compared the configurations.
func (r *running) since(old *running, sessions map[string]int64) []routes.AppliedListener {
	if old == nil {
		old = &running{table: &routes.Table{}}
	}
	before := map[string]string{} // address by name
	for _, l := range old.table.Listeners {
		before[l.Name] = l.Address
	}
	after := map[string]bool{} // names
	for _, l := range r.table.Listeners {
		after[l.Name] = true
	}
	all := make([]routes.AppliedListener, 0, len(r.table.Listeners))
	for _, l := range r.table.Listeners {
		a := routes.AppliedListener{Name: l.Name, Address: l.Address, Action: routes.Added, Sessions: sessions[l.Address]}
		switch was, known := before[l.Name]; {
		case known && was == l.Address:
			a.Action = routes.Kept
		case known:
			a.Action = routes.Rebound
		case old.renamed(l.Address, after):
			a.Action = routes.Updated
		}
		all = append(all, a)
	}
	for _, l := range old.table.Listeners {
		taken := r.listeners[l.Address]
		renamed := taken != nil && before[taken.Name] == ""
		if !after[l.Name] && !renamed {
			all = append(all, routes.AppliedListener{Name: l.Name, Address: l.Address, Action: routes.Removed, Sessions: sessions[l.Address]})
		}
	}
	return all
}

// renamed tells whether the listener that has address in r is not among names: who has the address next is it by another name.
func (r *running) renamed(address string, names map[string]bool) bool {
	l := r.listeners[address]
	return l != nil && !names[l.Name]
}

// settings are what a session of l pins. m is what its messages are held against.
func settings(l *routes.Listener, c *config.Config, m *memory.Share) *smtp.Settings {
	return &smtp.Settings{
		Hostname:      l.Hostname,
		SizeLimit:     SizeLimit(l, c),
		MaxRecipients: l.MaxRecipients,
		Timeout:       l.Timeout,
		MinRate:       l.MinRate,
		Memory:        m,
		LMTP:          l.Protocol == "lmtp",
		LineEndings:   lineEndings[l.LineEndings],
		TLS:           tlsConfig(l.TLS),
		ImplicitTLS:   l.TLS != nil && l.TLS.Mode == "implicit",
		Auth:          l.Auth != nil,
		AuthPlaintext: l.Auth != nil && l.Auth.AllowPlaintext,
	}
}

// users are those that may authenticate; a may be nil.
func users(a *config.Auth) map[string]string {
	if a == nil {
		return nil
	}
	hashes := make(map[string]string, len(a.Users))
	for _, u := range a.Users {
		hashes[u.Name] = u.PasswordHash
	}
	return hashes
}

var lineEndings = map[string]smtp.LineEndings{
	"reject": smtp.RejectBare,
	"fix":    smtp.FixBare,
	"pass":   smtp.PassBare,
}
