package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lsmtpd/gateway/listen"
	"lsmtpd/gateway/publish"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// change is one part of a new table, prepared. Commit cannot fail.
type change interface {
	Commit()
	Abort()
}

// Apply puts t in force, all or nothing: it prepares whatever can fail, and undoes that on the first error. The start is an
// Apply with nothing running. It returns at the commit; what retires then drains under Run.
func (g *Gateway) Apply(ctx context.Context, t *routes.Table) (routes.Applied, error) {
	g.applying.Lock()
	defer g.applying.Unlock()
	if g.stopped {
		return routes.Applied{}, errors.New("the daemon is stopping")
	}
	old := g.running.Load()
	prepared, broker, warnings, err := g.prepare(ctx, t)
	if err == nil && old != nil {
		err = ctx.Err() // who stops applies nothing
	}
	if err != nil {
		for i := len(prepared) - 1; i >= 0; i-- {
			prepared[i].Abort()
		}
		return routes.Applied{}, err
	}
	// Nothing can fail any more: only now anything at the broker changes, and before mail comes that needs it.
	warnings = append(warnings, summary(broker.Verify(t.Exchanges()))...)
	now := run(t, old, g.memory)
	g.limitMemory(t.Config.Limits.Memory)
	if _, warning := affordable(t.Config); warning != "" {
		warnings = append(warnings, warning)
	}
	applied := routes.Applied{Generation: now.generation, Listeners: now.since(old, g.sessions.byAddress()), Warnings: warnings}
	g.running.Store(now)
	for _, c := range prepared {
		c.Commit()
	}
	mended, lost := g.mendSockets()
	for i := range applied.Listeners {
		if l := &applied.Listeners[i]; slices.Contains(mended, l.Address) {
			l.Action = routes.Remade
		}
	}
	applied.Warnings = append(applied.Warnings, lost...)
	g.logListeners(applied.Listeners)
	if old != nil {
		g.retire(now)
	}
	return applied, nil
}

// Mend does what an Apply of the table in force would: it makes the Unix sockets again whose files somebody removed, while who is
// connected stays so, tries a broker that is away at once, and asks it for the exchanges. It returns the listeners whose sockets it
// made, and as warnings what it did for the admin socket, what it could not, and what the broker says.
func (g *Gateway) Mend() routes.Applied {
	g.applying.Lock()
	defer g.applying.Unlock()
	now := g.running.Load()
	if g.stopped || now == nil {
		return routes.Applied{}
	}
	mended, told := g.mendSockets()
	applied := routes.Applied{Generation: now.generation, Warnings: append(told, g.askBroker(now.table)...)}
	sessions := g.sessions.byAddress()
	for _, address := range mended {
		applied.Listeners = append(applied.Listeners, routes.AppliedListener{
			Name: now.listeners[address].Name, Address: address, Action: routes.Remade, Sessions: sessions[address],
		})
	}
	g.logListeners(applied.Listeners)
	return applied
}

// askBroker has the broker tried again, and asked for the exchanges of t, which is in force. It returns what it says.
func (g *Gateway) askBroker(t *routes.Table) []string {
	change, err := g.publisher.Prepare(context.Background(), &t.Config.AMQP) // makes no connection: the configuration is the same
	if err != nil {
		return []string{err.Error()}
	}
	problems := change.Verify(t.Exchanges())
	change.Commit()
	return summary(problems)
}

// mendSockets makes those sockets again whose files are gone. It returns the listeners' addresses, sorted, and what else to tell.
func (g *Gateway) mendSockets() (mended, told []string) {
	mended, lost := g.sockets.Mend()
	if len(lost) > 0 {
		told = strings.Split(lost.Error(), "\n")
	}
	if admin := g.admin.mend(); admin != "" {
		told = append(told, admin)
	}
	slices.Sort(mended)
	return mended, told
}

// logListeners writes a line for each listener whose socket is new or gone.
func (g *Gateway) logListeners(listeners []routes.AppliedListener) {
	bound := g.sockets.Addresses()
	for _, l := range listeners {
		switch l.Action {
		case routes.Added, routes.Rebound, routes.Remade:
			g.log.Info("listening", "listener", l.Name, "address", bound[l.Address])
		case routes.Removed:
			g.log.Info("listener removed", "listener", l.Name, "address", l.Address, "sessions", l.Sessions)
		}
	}
}

// prepare makes ready whatever can fail, in the order in which it is committed: the sockets bring mail, and come last; nobody
// shall connect to one, and then wait for the connection to a broker.
func (g *Gateway) prepare(ctx context.Context, t *routes.Table) (prepared []change, broker *publish.Change, warnings []string, err error) {
	c := t.Config
	for _, step := range []struct {
		key string
		do  func() (change, string, error)
	}{
		{"spool.dir", func() (change, string, error) {
			part, err := g.store.prepare(c.Spool.Dir, spoolLimits(c))
			if err != nil {
				return nil, "", err
			}
			return part, strings.Join(part.warnings, "; "), nil
		}},
		{"admin.socket", func() (change, string, error) { return g.admin.prepare(c.Admin) }},
		{"amqp.urls", func() (part change, warning string, err error) {
			broker, warning, err = g.prepareBroker(ctx, c)
			return broker, warning, err
		}},
		{"listeners", func() (change, string, error) { return g.prepareSockets(t) }},
	} {
		part, warning, err := step.do()
		if _, placed := errors.AsType[misfits](err); err != nil && !placed {
			err = misfits{misfit(c.Fault(step.key, err.Error()))}
		}
		if err != nil {
			return prepared, nil, nil, err
		}
		prepared = append(prepared, part)
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return prepared, broker, warnings, nil
}

// misfits is why a table does not fit the world as it is: faults with their places. Unlike config.Faults they may pass while
// the file stays what it is, and a start that meets them does not end with the status of an invalid file.
type misfits []misfit

type misfit config.Fault

// Error gives one line a fault, each as config.Fault.String has it.
func (m misfits) Error() string {
	faults := make(config.Faults, len(m))
	for i := range m {
		faults[i] = config.Fault(m[i])
	}
	return faults.Error()
}

// prepareSockets binds what is new.
func (g *Gateway) prepareSockets(t *routes.Table) (change, string, error) {
	wanted := make([]string, len(t.Listeners))
	for i, l := range t.Listeners {
		wanted[i] = l.Address
	}
	part, err := g.sockets.Prepare(wanted)
	unbound, _ := errors.AsType[listen.Unbound](err)
	var faults misfits
	for _, l := range t.Listeners {
		if why := unbound[l.Address]; why != nil {
			faults = append(faults, misfit(l.Fault("address", why.Error())))
		}
	}
	if faults != nil {
		err = faults
	}
	return part, "", err
}

// prepareBroker connects where that is needed; nothing at the broker changes by it.
func (g *Gateway) prepareBroker(ctx context.Context, c *config.Config) (broker *publish.Change, warning string, err error) {
	broker, err = g.publisher.Prepare(ctx, &c.AMQP)
	if err == nil && broker.Warning != nil {
		warning = "mail is spooled until the broker is back: " + broker.Warning.Error()
	}
	return broker, warning, err
}

// summary tells the first of many errors.
func summary(errs []error) (told []string) {
	const most = 100
	for _, err := range errs[:min(most, len(errs))] {
		told = append(told, err.Error())
	}
	if more := len(errs) - most; more > 0 {
		told = append(told, fmt.Sprintf("and %d more problems at the broker", more))
	}
	return told
}

// retire drains the sessions of every address that is gone, and cuts what is left after drain_timeout (0: never). A session that an
// earlier call waits for is left to that one.
func (g *Gateway) retire(now *running) {
	patience := now.table.Config.DrainTimeout
	var leaving []*session
	for _, s := range g.sessions.all() {
		if now.listeners[s.address] != nil || s.awaited {
			continue
		}
		s.drain()
		s.awaited = patience > 0
		leaving = append(leaving, s)
	}
	if len(leaving) == 0 || patience == 0 {
		return
	}
	g.tasks.Go(func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for i, s := range leaving {
			select {
			case <-s.ended:
			case <-timer.C:
				g.cutOff(leaving[i:])
				return
			case <-g.cutting.Done():
				return
			}
		}
	})
}

// cutOff cuts those of sessions that have not ended, and counts them.
func (g *Gateway) cutOff(sessions []*session) {
	cut := 0
	for _, s := range sessions {
		select {
		case <-s.ended:
		default:
			s.conn.Close()
			cut++
		}
	}
	if cut > 0 {
		g.log.Warn("cut sessions of removed listeners that did not end within drain_timeout", "sessions", cut)
	}
}
