package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/reload"
)

const statusHelp = `usage: lsmtpd status [--json] [--history] [--socket PATH | -c FILE]

Shows what the running daemon does: its listeners, the broker, the spool, and
the configuration in force.

flags:
{flags}

exit status: 0 done, 1 it failed, 2 wrong usage or no daemon there

example:
  lsmtpd status -c /etc/lsmtpd/lsmtpd.yaml
`

// statusPatience is how long a daemon may take to tell its status.
const statusPatience = 5 * time.Second

var errSilent = errors.New("the daemon does not answer within 5s: is it stopped (SIGCONT lets it go on), or its machine overloaded?")

// ask returns the status of a daemon that answers in time; who wants more of it asks for that first, for which no time is too long.
func ask(ctx context.Context, client *admin.Client) (admin.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusPatience, errSilent)
	defer cancel()
	return client.Status(ctx)
}

func runStatus(p *program, args []string) int {
	f := p.flags("status", statusHelp)
	client, asJSON := f.control()
	history := f.Bool("history", false, "show the last reloads instead")
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *history {
		return f.showHistory(ctx, client(), *asJSON)
	}
	s, err := ask(ctx, client())
	if err != nil {
		return f.unanswered(err)
	}
	if *asJSON {
		_ = json.NewEncoder(p.stdout).Encode(s)
		return exitDone
	}
	fmt.Fprint(p.stdout, printable(statusText(s, time.Now())))
	return exitDone
}

func (f *flags) showHistory(ctx context.Context, client *admin.Client, asJSON bool) int {
	ctx, cancel := context.WithTimeoutCause(ctx, statusPatience, errSilent)
	defer cancel()
	reports, err := client.History(ctx)
	if err != nil {
		return f.unanswered(err)
	}
	if asJSON {
		_ = json.NewEncoder(f.p.stdout).Encode(reports)
		return exitDone
	}
	for _, r := range reports {
		fmt.Fprintf(f.p.stdout, "%s  ", r.Time.Local().Format(time.DateTime))
		fmt.Fprint(f.p.stdout, reportText(r))
	}
	return exitDone
}

// statusText is the status for a person, at the time now.
func statusText(s admin.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "lsmtpd %s, up %s, process %d\n\n", s.Version, age(s.Started, now), s.Process.PID)
	fmt.Fprintf(&b, "broker  %s\n", brokerText(s.Broker, now))
	unusableText(&b, s.Broker, now)
	for i, sp := range s.Spools {
		fmt.Fprintf(&b, "spool   %s\n", spoolText(sp, now, i > 0))
	}
	fmt.Fprintf(&b, "in use  %d%s connections, %d%s octets of message memory\n",
		s.Limits.Connections, of(int64(s.Limits.MaxConnections)), s.Limits.Memory, of(s.Limits.MaxMemory))
	configText(&b, s.Config, now)
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LISTENER\tADDRESS\tSESSIONS\tACCEPTED\tCONFIRMED\tSPOOLED\tREFUSED")
	for _, l := range s.Listeners {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", l.Name, cmp.Or(l.Bound, l.Address), l.Sessions, l.Accepted, l.Confirmed, l.Spooled, l.Refused)
	}
	for _, d := range s.Draining {
		fmt.Fprintf(w, "%s\t%s\t%d\tdraining\n", d.Name, d.Address, d.Sessions)
	}
	_ = w.Flush() // into b
	for _, l := range s.Listeners {
		if l.Unreachable != "" {
			fmt.Fprintf(&b, "listener %s: %s\n", l.Name, l.Unreachable)
		}
	}
	if s.Admin != "" {
		b.WriteString(s.Admin + "\n")
	}
	return b.String()
}

// of tells a limit, where there is one.
func of(limit int64) string {
	if limit == 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", limit)
}

// unusableText tells of brokers, lanes and destinations that are not as they should be.
func unusableText(b *strings.Builder, s publish.Status, now time.Time) {
	for _, u := range s.NotReached {
		fmt.Fprintf(b, "        not reached when it was tried %s ago: %s\n", age(u.Tried, now), u.Error)
	}
	for _, l := range s.Lanes {
		if l.Error != "" && l.Error != s.Error {
			fmt.Fprintf(b, "        lane %s %s since %s: %s\n", l.Name, l.State, age(l.Since, now), l.Error)
		}
		if l.Queued+l.Unconfirmed > 0 {
			fmt.Fprintf(b, "        lane %s: %d queued, %d unconfirmed (%d octets)\n", l.Name, l.Queued, l.Unconfirmed, l.Octets)
		}
	}
	for _, exchange := range slices.Sorted(maps.Keys(s.Exchanges)) {
		fmt.Fprintf(b, "        exchange %q is unusable, its mail is not published: %s\n", exchange, s.Exchanges[exchange])
	}
	if len(s.Unverified) > 0 && s.State == publish.Connected {
		fmt.Fprintf(b, "        not verified yet: exchange %q\n", s.Unverified)
	}
	for _, d := range s.Breakers {
		fmt.Fprintf(b, "        exchange %q with key %q does not confirm, its mail is not published: next probe in %s\n",
			d.Exchange, d.RoutingKey, max(d.Probe.Sub(now), 0).Round(time.Second))
	}
	for _, d := range s.Refused {
		fmt.Fprintf(b, "        exchange %q refuses key %q, its mail is not published: %s, next probe in %s\n",
			d.Exchange, d.RoutingKey, d.Error, max(d.Probe.Sub(now), 0).Round(time.Second))
	}
	for _, exchange := range slices.Sorted(maps.Keys(s.RefusedMore)) {
		fmt.Fprintf(b, "        exchange %q refuses %d more keys\n", exchange, s.RefusedMore[exchange])
	}
	for _, fault := range s.Topology {
		fmt.Fprintf(b, "        topology not as configured: %s\n", fault)
	}
}

func brokerText(s publish.Status, now time.Time) string {
	text := string(s.State)
	if s.Broker != "" {
		text += " to " + s.Broker
	}
	text += " since " + age(s.Since, now)
	if s.State != publish.Connected {
		text += ", mail is spooled"
	}
	if s.Retry != nil {
		text += ", next attempt in " + max(s.Retry.Sub(now), 0).Round(time.Second).String()
	}
	text += fmt.Sprintf(" (%d queued, %d unconfirmed)", s.Queued, s.Unconfirmed)
	if s.Error != "" {
		text += "\n        " + s.Error
	}
	return text
}

func spoolText(s spool.Status, now time.Time, old bool) string {
	if s.NotOpen != "" {
		return s.Dir + ": not in use any more, and what mail is left there waits unseen:\n        " + s.NotOpen
	}
	text := fmt.Sprintf("%s: %d waiting", s.Dir, s.Files)
	if s.Files > 0 {
		text += fmt.Sprintf(" (%s, the oldest for %s)", sizeText(s.Octets), age(s.Oldest, now))
	}
	for _, some := range []struct {
		n    int
		what string
	}{{s.Retrying, "being retried"}, {s.Unreadable, "unreadable (lsmtpd spool ls --bad)"}, {s.NoDestination, "without a destination"},
		{s.Unremoved, "delivered that cannot be removed (tried again)"}, {s.Ignored, "ignored (not the spool's by their names)"}} {
		if some.n > 0 {
			text += fmt.Sprintf(", %d %s", some.n, some.what)
		}
	}
	if old {
		text += ", not in use any more, replayed until it is empty"
	}
	if s.Indexing {
		text += ", still counting"
	}
	astray := ""
	if s.Astray != "" {
		astray = "takes no mail: " + s.Astray
	}
	failing := ""
	if s.Failing != "" {
		failing = "the disk takes no mail until a test of it passes: " + s.Failing
	}
	forgot := ""
	if s.Forgot != "" {
		forgot = "it is not known where mail was spooled before, and that mail may wait unseen: " + s.Forgot
	}
	refused := ""
	if s.Refused > 0 {
		refused = fmt.Sprintf("refused mail %s, the last time %s ago: %s", times(s.Refused), age(s.LastRefusalAt, now), s.LastRefusal)
	}
	last := ""
	if s.LastError != "" && !s.Mended {
		last = fmt.Sprintf("last error %s ago: %s", age(s.LastErrorAt, now), s.LastError)
	}
	for _, note := range []string{s.Warning, astray, failing, forgot, refused, last} {
		if note != "" {
			text += "\n        " + note
		}
	}
	return text
}

// times tells how often something was.
func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func configText(b *strings.Builder, s reload.Status, now time.Time) {
	fmt.Fprintf(b, "config  %s: generation %d, in force for %s, sha256 %.12s\n", s.Path, s.Generation, age(s.Applied, now), s.Digest)
	if s.Degraded {
		told := "what the files say now was rejected, the above stays in force:"
		if s.Kept {
			told = "the above is in force without the included files that are wrong, whose last good listeners stay:"
		}
		b.WriteString("        DEGRADED: " + told + "\n")
		for _, e := range s.Errors {
			fmt.Fprintf(b, "        %s\n", e)
		}
	}
	if s.WatchDegraded != "" {
		fmt.Fprintf(b, "        changes are found by the poll only: %s\n", s.WatchDegraded)
	}
}

// age is how long ago t was, in whole seconds.
func age(t, now time.Time) string { return now.Sub(t).Round(time.Second).String() }

// reportText is a report for a person.
func reportText(r reload.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "configuration %s in %.1f ms by %s: generation %d, sha256 %.12s\n", r.Result, r.Duration, r.Trigger, r.Generation, cmp.Or(r.After, r.Before))
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "  error    %s\n", e)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "  warning  %s\n", w)
	}
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "  changed  %s: %s: %s → %s\n", c.Place, c.Key, cmp.Or(c.Old, "(nothing)"), cmp.Or(c.New, "(nothing)"))
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "  changed  and %d more keys\n", r.More)
	}
	for _, l := range r.Listeners {
		if l.Action != "kept" {
			fmt.Fprintf(&b, "  %-8s %s on %s", l.Action, l.Name, l.Address)
			if l.Sessions > 0 {
				fmt.Fprintf(&b, " (%s)", count(int(l.Sessions), "session"))
			}
			b.WriteString("\n")
		}
	}
	if r.Result == reload.Rejected {
		b.WriteString("The configuration in force stays as it was.\n")
	}
	return printable(b.String())
}
