package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

const spoolHelp = `usage: lsmtpd spool COMMAND [FLAGS]

Works with the mail that waits in the spool: through the running daemon, or,
where none runs, on the directory itself, which it locks meanwhile.

commands:
  ls        list what waits there, and why
  show      show one mail: envelope, header, destination, last error
  replay    send mail now, be it to another destination
  rm        remove mail for good

"lsmtpd spool COMMAND --help" explains one of them.

example:
  lsmtpd spool ls -c /etc/lsmtpd/lsmtpd.yaml
`

var spoolCommands = []command{
	{name: "ls", run: runSpoolLs},
	{name: "show", run: runSpoolShow},
	{name: "replay", signals: true, run: runSpoolReplay},
	{name: "rm", signals: true, run: runSpoolRm},
}

func runSpool(p *program, args []string) int {
	f := p.flags("spool", spoolHelp)
	if len(args) == 0 {
		fmt.Fprint(p.stderr, spoolHelp)
		return exitUsage
	}
	names := make([]string, len(spoolCommands))
	for i, c := range spoolCommands {
		if names[i] = c.name; c.name == args[0] {
			if !c.signals {
				releaseSignals(p.stops, p.hangups)
			}
			return c.run(p, args[1:])
		}
	}
	if _, err := f.parse(args, len(args)); err != nil {
		return f.refuse(err)
	}
	return f.refuse(fmt.Errorf("there is no command %q%s", args[0], config.DidYouMean(args[0], names)))
}

// keeper is who has the spool open: the daemon, or this process.
type keeper interface {
	Entries(context.Context, *gateway.Filter) iter.Seq2[spool.Entry, error]
	Bad(context.Context) iter.Seq2[spool.BadEntry, error]
	Mail(context.Context, uuid.UUID) (gateway.SpooledMail, error)
	Replay(ctx context.Context, ids []uuid.UUID, to *gateway.Destination, each func(gateway.Outcome) error) error
	Remove(ctx context.Context, ids []uuid.UUID, each func(gateway.Outcome) error) error
}

// access is the way to the spool.
type access struct {
	keeper
	local   *gateway.Spooled // where no daemon runs, else nil
	config  *config.Config   // with local
	broken  bool             // config has faults, and its broker may not be the one that is meant
	partial bool             // there is mail that nobody reaches; it was told
	again   func(context.Context) (*access, error)
}

// asking has a question asked, and does not keep a daemon from starting meanwhile: then this leads to the daemon.
func (a *access) asking(ctx context.Context, ask func() error) error {
	if a.local == nil {
		return ask()
	}
	a.close()
	if err := ask(); err != nil {
		return err
	}
	again, err := a.again(ctx)
	if err == nil {
		*a = *again
	}
	return err
}

// tell warns of mail that is not reached.
func (a *access) tell(w io.Writer, unreached []string) {
	for _, warning := range unreached {
		a.partial = true
		fmt.Fprintf(w, "lsmtpd: warning: %s\n", printableLine(warning))
	}
}

// done is the exit status of what went well as far as mail is reached. What names mail by ids asked for no more than that.
func (a *access) done(ids []string) int {
	if a.partial && len(ids) == 0 {
		return exitFailed
	}
	return exitDone
}

// close gives the spool up.
func (a *access) close() {
	if a.local != nil {
		_ = a.local.Close() // be it again; nothing is written that would be lost by it
	}
}

// spool defines the flags that lead to a spool. open may be called once the flags are parsed; its error is for unanswered.
func (f *flags) spool() (open func(context.Context) (*access, error)) {
	path := f.configFile()
	daemon := f.daemon(path)
	open = func(ctx context.Context) (*access, error) {
		client := daemon()
		status, err := ask(ctx, client)
		if err == nil {
			a := &access{keeper: client}
			a.tell(f.p.stderr, gateway.Unreached(status.Spools))
			return a, nil
		}
		if !errors.Is(err, admin.ErrNobody) || f.given("socket") {
			return nil, err
		}
		_, c, faults := routes.Read(*path, nil)
		if faults != nil && namesSocket(c) {
			printFaults(f.p.stderr, faults) // else they are told already
		}
		if faults != nil && !said(c, faults, "spool.dir") {
			return nil, err
		}
		if faults != nil {
			fmt.Fprintf(f.p.stderr, "lsmtpd %s: the configuration is invalid, but it names the spool directory, %s\n", f.Name(), printableLine(c.Spool.Dir))
		}
		local, opened := openSpool(c)
		if opened != nil {
			return nil, fmt.Errorf("%w (and no daemon listens on %s, which would answer for it; --socket names another socket)", opened, client.Socket)
		}
		a := &access{keeper: local, local: local, config: c, again: open, broken: faults != nil && !said(c, faults, "amqp.urls")}
		a.tell(f.p.stderr, local.Unreached())
		return a, nil
	}
	return open
}

// said tells whether a configuration with faults says what key, like "spool.dir", is, and has no fault in that section: its default
// is not believed, for the key may just be mistyped.
func said(c *config.Config, err error, key string) bool {
	section, _, _ := strings.Cut(key, ".")
	faults, _ := errors.AsType[config.Faults](err)
	for _, f := range faults {
		if f.Key == section || strings.HasPrefix(f.Key, section+".") {
			return false
		}
	}
	return c.At(key) != c.At(section) // where it was not written, At tells of the section
}

// openSpool opens a spool that is there.
func openSpool(c *config.Config) (*gateway.Spooled, error) {
	dir := c.Spool.Dir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("spool %s: there is no such directory, so no mail waits there", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		name := fmt.Sprintf("'#%d'", owner)
		if u, err := user.LookupId(strconv.Itoa(int(owner))); err == nil {
			name = u.Username
		}
		return nil, fmt.Errorf("spool %s: belongs to the user %s: run this as that user, with: sudo -u %s lsmtpd spool …", dir, name, name)
	}
	return gateway.OpenSpooled(dir, c.Limits.Memory)
}

// selection is what the flags and operands of a command select of the spool.
type selection struct {
	f       *flags
	all     *bool            // nil where there is no --all
	filters map[string]*once // by the key of gateway.ParseFilter
	failed  bool
}

// selection defines the flags that select mail.
func (f *flags) selection() *selection {
	s := &selection{f: f, filters: map[string]*once{}}
	for name, usage := range map[string]string{
		"listener":  "only mail that this listener took, by its `NAME`",
		"exchange":  "only mail for the exchange of this `NAME`; \"\" is the default exchange",
		"from":      "only mail from senders of this `PATTERN`: an address, a domain, *@b.example, \"<>\"",
		"recipient": "only mail to a recipient of this `PATTERN`",
		"older":     "only mail that has waited for this `DURATION` or longer, like 30m, 48h or 7d",
	} {
		s.filters[name] = new(once)
		f.Var(s.filters[name], name, usage)
	}
	f.BoolVar(&s.failed, "failed", false, "only mail that was tried again in vain, or waits as its destination takes none")
	return s
}

// withTo defines --to as another name for --recipient, where it does not mean a destination.
func (s *selection) withTo() *selection {
	s.f.Var(s.filters["recipient"], "to", "the same as --recipient `PATTERN`")
	return s
}

// withAll defines --all too, without which nothing given selects nothing.
func (s *selection) withAll() *selection {
	s.all = s.f.Bool("all", false, "all mail in the spool")
	return s
}

// filter is what was selected. Its error is for refuse.
func (s *selection) filter(ids []string) (*gateway.Filter, error) {
	v := url.Values{}
	for name, value := range s.filters {
		if value.given {
			v.Set(name, value.text)
		}
	}
	if s.failed {
		v.Set("failed", "true")
	}
	switch {
	case len(ids) > 0 && (len(v) > 0 || s.all != nil && *s.all):
		return nil, errors.New("ids and flags that select exclude each other")
	case s.all != nil && *s.all && len(v) > 0:
		return nil, errors.New("--all and flags that select exclude each other")
	case s.all != nil && !*s.all && len(ids) == 0 && len(v) == 0:
		return nil, errors.New("name the mail by ids, by flags that select, or by --all")
	}
	if len(ids) > 0 {
		v["id"] = ids
	}
	return gateway.ParseFilter(v)
}

// found is mail that a command is about to work on.
type found struct {
	ids    []uuid.UUID
	octets int64
	sample []spool.Entry  // the first of them
	taken  map[string]int // how many each listener took
}

const maxSample = 10

// find gathers what filter means. Each of names must mean exactly one mail.
func (p *program) find(ctx context.Context, k keeper, filter *gateway.Filter, names []string) (*found, error) {
	all := &found{taken: map[string]int{}}
	looking := newProgress(p.stderr, func(int) string { return fmt.Sprintf("looking through the spool: %d found", len(all.ids)) })
	defer looking.end()
	for e, err := range k.Entries(ctx, filter) {
		if err != nil {
			return nil, err
		}
		all.ids = append(all.ids, e.ID)
		all.octets += e.Size
		all.taken[e.Listener]++
		if len(all.sample) < maxSample {
			all.sample = append(all.sample, e)
		}
		looking.step()
	}
	for _, name := range names {
		if err := all.one(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// listeners is how many of the mails each listener took: "2 of a, 1 of b", the most first.
func (a *found) listeners() string {
	names := slices.SortedFunc(maps.Keys(a.taken), func(x, y string) int {
		return cmp.Or(cmp.Compare(a.taken[y], a.taken[x]), cmp.Compare(x, y))
	})
	var parts []string
	for i, name := range names {
		if i == maxSample {
			parts = append(parts, fmt.Sprintf("the rest of %s more", count(len(names)-i, "listener")))
			break
		}
		of := printableLine(name)
		if name == "" {
			of = "no known listener"
		}
		parts = append(parts, fmt.Sprintf("%d of %s", a.taken[name], of))
	}
	return strings.Join(parts, ", ")
}

// one tells why name, the beginning of an id, does not mean one mail.
func (a *found) one(name string) error {
	var meant []string
	for _, id := range a.ids {
		if strings.HasPrefix(id.String(), strings.ToLower(name)) {
			meant = append(meant, id.String())
		}
	}
	switch n := len(meant); {
	case n == 0:
		return fmt.Errorf("no mail in the spool has the id %s: it was delivered, or never there; see lsmtpd spool ls", name)
	case n > 1:
		return fmt.Errorf("%s begins the ids of %d mails, more digits tell them apart: %s", name, n, strings.Join(meant[:min(n, maxSample)], ", "))
	}
	return nil
}
