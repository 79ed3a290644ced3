package main

import (
	"context"
	"errors"
	"log/slog"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
	"lsmtpd/routes/reload"
)

const runHelp = `usage: lsmtpd run [-c FILE]

Takes mail in on every listener of the configuration and puts it into RabbitMQ,
until it is told to stop. The log goes to standard error.

The configuration is read again when a file of it is saved, on SIGHUP and on
"lsmtpd reload": all of the new one is put in force, or none of it.

SIGTERM or Ctrl-C stops it: no new sessions, the mail under way is finished.
A second one cuts at once; no mail that got its 250 is lost by that.

flags:
{flags}

exit status: 0 stopped as asked, 1 it could not start or go on (a port in use,
a spool that cannot be written), 78 the configuration is invalid

example:
  lsmtpd run -c /etc/lsmtpd/lsmtpd.yaml
`

func runRun(p *program, args []string) int {
	f := p.flags("run", runHelp)
	path := f.configFile()
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may go away: mail goes on
	logs := newLogging(p.stderr, config.Log{Level: "info", Format: "auto"})
	err := p.serve(*path, logs)
	if faults, ok := errors.AsType[config.Faults](err); ok {
		printFaults(p.stderr, faults)
		return exitConfig
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			logs.logger().Error("giving up", "error", strings.TrimSpace(line))
		}
		return exitFailed
	}
	return exitDone
}

// serve runs a gateway on the configuration at path, and reloads it, until a signal ends it.
func (p *program) serve(path string, logs *logging) error {
	log := logs.logger()
	g := gateway.New(gateway.Options{Log: log, Version: programVersion()})
	starting := sync.OnceFunc(func() { log.Info("starting", "version", programVersion(), "config", path) })
	r := &reload.Reloader{Path: path, Log: log, Mend: g.Mend, Apply: func(ctx context.Context, t *routes.Table) (routes.Applied, error) {
		before := logs.set(t.Config.Log)
		starting()
		applied, err := g.Apply(ctx, t)
		if err != nil {
			logs.set(before)
		}
		return applied, err
	}}
	g.ServeAdmin(admin.Handler(g, r))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan struct{})
	defer close(done)
	go p.obey(done, log, stop, g.Cut, r.Hangup)

	var reloading sync.WaitGroup
	ready, failed := make(chan struct{}), make(chan error, 1)
	reloading.Go(func() { failed <- r.Run(ctx, func(reload.Report) { close(ready) }) })
	defer reloading.Wait()
	defer stop()
	select {
	case <-ready:
	case err := <-failed:
		if ctx.Err() != nil {
			return nil // stopped while it started
		}
		return err
	}
	return g.Run(ctx)
}

// obey turns signals into what they mean to a running gateway, until done.
func (p *program) obey(done <-chan struct{}, log *slog.Logger, stop, cut, hangup func()) {
	stopping, refused := false, false
	for {
		select {
		case s := <-p.stops:
			if stopping {
				log.Warn("asked again: cutting what is under way", "signal", s.String())
				cut()
				continue
			}
			log.Info("asked to stop", "signal", s.String())
			stopping = true
			stop()
		case <-p.hangups:
			switch {
			case !stopping:
				hangup()
			case !refused:
				refused = true // one line, however many come
				log.Warn("no reload any more: the daemon is stopping", "signal", "hangup")
			}
		case <-done:
			return
		}
	}
}
