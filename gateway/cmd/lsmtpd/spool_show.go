package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lsmtpd/gateway"
)

const spoolShowHelp = `usage: lsmtpd spool show [FLAGS] ID

Shows one mail: its envelope, where it goes, what came of that so far, and the
header of the mail. ID may be cut to its first digits while they are one mail's.

flags:
{flags}

--raw prints the mail octet for octet, but on a terminal, where control octets
are shown as escapes.

exit status: 0 done, 1 it failed, or there is no such mail, 2 wrong usage or no
daemon on --socket

examples:
  lsmtpd spool show 3f2a91c0
  lsmtpd spool show --raw 3f2a91c0 > mail.eml
`

func runSpoolShow(p *program, args []string) int {
	f := p.flags("spool show", spoolShowHelp)
	open := f.spool()
	raw := f.Bool("raw", false, "print the mail itself")
	asJSON := f.Bool("json", false, "print JSON, on one line, with the mail in base64")
	operands, err := f.parse(args, 1)
	switch {
	case err != nil:
		return f.refuse(err)
	case len(operands) == 0:
		return f.refuse(errors.New("name the mail by its id"))
	case *raw && *asJSON:
		return f.refuse(errors.New("--raw and --json exclude each other"))
	}
	filter, err := (&selection{f: f}).filter(operands)
	if err != nil {
		return f.refuse(err)
	}
	ctx := context.Background() // a signal ends the program
	a, err := open(ctx)
	if err != nil {
		return f.unanswered(err)
	}
	defer a.close()
	some, err := p.find(ctx, a, filter, operands)
	if err != nil {
		return f.failed(err)
	}
	m, err := a.Mail(ctx, some.ids[0])
	if err != nil {
		return f.failed(err)
	}
	var text []byte
	switch {
	case *raw:
		print := printer{terminal: isTerminal(p.stdout)}
		text = print.raw(m.Content)
	case *asJSON:
		text = jsonLine(&m)
	default:
		text = []byte(mailText(&m, time.Now()))
	}
	if _, err := p.stdout.Write(text); err != nil {
		return f.failed(err)
	}
	return exitDone
}

// mailText is a spooled mail for people, at the time now.
func mailText(m *gateway.SpooledMail, now time.Time) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name, printableLine(value))
		}
	}
	line("id", m.ID.String())
	if m.MailID != m.ID {
		line("mail", m.MailID.String()+" (in the reply to the client)")
	}
	line("listener", m.Listener)
	line("received", moment(m.ReceivedAt, now)+clientText(m))
	line("from", senderText(m.Sender))
	for i, r := range m.Recipients {
		name := ""
		if i == 0 {
			name = "recipients"
		}
		line(name, r)
	}
	line("size", fmt.Sprintf("%s, in a file of %d", count(len(m.Content), "octet"), m.Size))
	if m.NoDestination {
		line("destination", "none: the file does not say, give it one with lsmtpd spool replay --to EXCHANGE:KEY")
	} else {
		line("destination", fmt.Sprintf("exchange %q, key %q, format %s", m.Exchange, m.RoutingKey, m.Format))
	}
	if was := m.AcceptedFor; was != nil {
		line("accepted for", fmt.Sprintf("exchange %q, key %q", was.Exchange, was.RoutingKey))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		line("", name+": "+m.Headers[name])
	}
	line("spooled", moment(m.SpooledAt, now))
	attempts := fmt.Sprint(m.Attempts)
	if wait := m.NextTry.Sub(now); wait > 0 {
		attempts += ", the next one in " + wait.Round(time.Second).String()
	}
	line("attempts", attempts)
	line("last error", m.LastError)
	line("waits", m.Waits)
	b.WriteString("\n" + printable(strings.ReplaceAll(string(header(m.Content)), "\r\n", "\n")) + "\n")
	return b.String()
}

// moment is a time and how long ago that was.
func moment(t, now time.Time) string {
	return t.Local().Format(time.DateTime) + ", " + shortAge(now.Sub(t)) + " ago"
}

// clientText is what is known of who brought a mail.
func clientText(m *gateway.SpooledMail) string {
	text := ""
	if m.ClientIP.IsValid() {
		text += ", from " + m.ClientIP.String()
	}
	if m.Helo != "" {
		text += fmt.Sprintf(", which said it is %q", m.Helo)
	}
	if m.User != "" {
		text += fmt.Sprintf(", logged in as %q", m.User)
	}
	if m.TLS != "" {
		text += ", over " + m.TLS
	}
	return text
}
