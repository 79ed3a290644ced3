package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"lsmtpd/routes/config"
)

// flags is a command's flag set. Beyond the standard one its flags may stand behind operands too, a typo is answered with
// the nearest flag, and the help text is written by hand around the generated list.
type flags struct {
	*flag.FlagSet
	p    *program
	help string // "{flags}" stands for the list
}

func (p *program) flags(name, help string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), p: p, help: help}
	f.SetOutput(io.Discard) // refuse says it better
	f.Usage = func() {}
	return f
}

// configFile defines -c.
func (f *flags) configFile() *string {
	return f.String("c", defaultConfig, "the configuration `FILE`")
}

// parse reads args and returns the operands, at most that many. Its error is for refuse.
func (f *flags) parse(args []string, most int) (operands []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		rest := f.Args()
		if len(rest) == 0 {
			break
		}
		if read := len(args) - len(rest); read > 0 && args[read-1] == "--" {
			operands = append(operands, rest...)
			break
		}
		operands, args = append(operands, rest[0]), rest[1:]
	}
	if len(operands) > most {
		return nil, fmt.Errorf("unexpected argument %q", operands[most])
	}
	return operands, nil
}

// given tells whether a flag was set, be it to its default.
func (f *flags) given(name string) bool {
	found := false
	f.Visit(func(d *flag.Flag) { found = found || d.Name == name })
	return found
}

// refuse answers what parse returned, or another wrong use, and returns the exit status. Asking for help is not wrong.
func (f *flags) refuse(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(f.p.stdout, strings.Replace(f.help, "{flags}\n", f.list(), 1))
		return exitDone
	}
	text := f.badValue(err.Error())
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var names []string
		f.VisitAll(func(d *flag.Flag) { names = append(names, dashed(d.Name)) })
		text = "there is no flag " + dashed(name) + config.DidYouMean(dashed(name), names)
	}
	fmt.Fprintf(f.p.stderr, "lsmtpd %s: %s\nSee \"lsmtpd %s --help\".\n", f.Name(), text, f.Name())
	return exitUsage
}

var (
	badValue  = regexp.MustCompile(`^invalid (?:boolean )?value ("(?:[^"\\]|\\.)*") for (?:flag )?-([^:]+): (.*)$`)
	noValueOf = regexp.MustCompile(`^flag needs an argument: -(.+)$`)
)

// badValue says for people what the standard flag set says of a value; any other text is returned as it is.
func (f *flags) badValue(text string) string {
	if m := noValueOf.FindStringSubmatch(text); m != nil {
		return dashed(m[1]) + " needs a value"
	}
	m := badValue.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	value, name, why := m[1], m[2], m[3]
	if d := f.Lookup(name); d != nil {
		var kind any
		if v, ok := d.Value.(flag.Getter); ok {
			kind = v.Get()
		}
		switch kind.(type) {
		case int:
			why = "not a whole number, or far too large"
		case time.Duration:
			why = "not a duration, like 30s or 5m"
		case bool:
			why = "neither true nor false"
		}
	}
	return fmt.Sprintf("%s %s: %s", dashed(name), value, why)
}

// failed tells on stderr why the command failed and returns the exit status.
func (f *flags) failed(err error) int {
	fmt.Fprintf(f.p.stderr, "lsmtpd %s: %s\n", f.Name(), printable(err.Error()))
	return exitFailed
}

// list is the flags with their values, meanings and defaults, a line each.
func (f *flags) list() string {
	var b strings.Builder
	f.VisitAll(func(d *flag.Flag) {
		value, usage := flag.UnquoteUsage(d)
		switch d.DefValue {
		case "", "0", "false":
		default:
			usage += " (default " + d.DefValue + ")"
		}
		fmt.Fprintf(&b, "  %-20s %s\n", strings.TrimSpace(dashed(d.Name)+" "+value), usage)
	})
	return b.String()
}

// dashed is a flag as people write it.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// words is a flag that may be given several times, or once with a comma between its values.
type words []string

func (w *words) String() string { return strings.Join(*w, ",") }

// Set adds the values of s. A comma inside a quoted local part separates nothing.
func (w *words) Set(s string) error {
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			*w, start = append(*w, strings.TrimSpace(s[start:i])), i+1
		}
	}
	*w = append(*w, strings.TrimSpace(s[start:]))
	return nil
}

// once is a flag that may be given once only: to keep the last of several would work on other mail than was meant.
type once struct {
	text  string
	given bool
}

// String returns the value.
func (o *once) String() string { return o.text }

// Set takes the value.
func (o *once) Set(s string) error {
	if o.given {
		return fmt.Errorf("it is given already, with %q, and takes one value", o.text)
	}
	o.text, o.given = s, true
	return nil
}
