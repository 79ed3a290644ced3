package routes

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"lsmtpd/routes/address"
	"lsmtpd/routes/config"
)

// matcher is a route's match, compiled. Each of its lists that is not empty must have an entry that holds.
type matcher struct {
	recipients []mailbox
	senders    []mailbox
	clients    []netip.Prefix
	users      []string
}

// mailbox is what an address is compared with: a glob for its local part and one for its domain, apart, so that no quoted
// local part can pass for a domain.
type mailbox struct {
	null          bool // the null sender, and nothing else
	local, domain glob
}

// glob is a text, perhaps with wildcards. Its zero value is the empty text.
type glob struct {
	how  how
	text string // folded where how is wild
}

type how uint8

const (
	exactly how = iota
	anything
	under // a domain below text, which begins with a dot
	wild  // text holds *, each any octets
)

// holds tells whether m takes q.
func (m *matcher) holds(q *Query) bool {
	return (len(m.recipients) == 0 || holdsAny(m.recipients, &q.Recipient)) &&
		(len(m.senders) == 0 || holdsAny(m.senders, &q.Sender)) &&
		(len(m.clients) == 0 || contains(m.clients, q.Client)) &&
		(len(m.users) == 0 || slices.Contains(m.users, q.User) && q.User != "")
}

func holdsAny(list []mailbox, a *address.Address) bool {
	for i := range list {
		if list[i].holds(a) {
			return true
		}
	}
	return false
}

func contains(networks []netip.Prefix, ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

func (m *mailbox) holds(a *address.Address) bool {
	if m.null || a.IsNull() {
		return m.null && a.IsNull()
	}
	return m.domain.holdsDomain(a.Domain) && m.local.holdsLocal(a.Local)
}

func (g *glob) holdsDomain(s string) bool {
	switch g.how {
	case exactly:
		return s == g.text
	case under:
		return len(s) > len(g.text) && strings.HasSuffix(s, g.text)
	case wild:
		return wildMatch(g.text, s)
	}
	return true
}

func (g *glob) holdsLocal(s string) bool {
	switch g.how {
	case exactly:
		return strings.EqualFold(s, g.text)
	case wild:
		return wildMatch(g.text, s)
	}
	return true
}

// namesDomains tells whether the configuration lists every domain that m can take.
func (m *matcher) namesDomains() bool {
	return len(m.recipients) > 0 && !slices.ContainsFunc(m.recipients, func(b mailbox) bool { return b.domain.how != exactly })
}

// wildMatch compares s, folded, with a folded pattern. It goes back to the last star only, which is enough.
func wildMatch(pattern, s string) bool {
	star, again := -1, 0 // the pattern's last star, and where in s what follows it was tried last
	p, i := 0, 0
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		if p < len(pattern) && pattern[p] == '*' {
			star, again = p, i
			p++
			continue
		}
		if p < len(pattern) {
			if want, wide := utf8.DecodeRuneInString(pattern[p:]); want == fold(r) {
				p, i = p+wide, i+size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size = utf8.DecodeRuneInString(s[again:])
		again += size
		p, i = star+1, again
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// fold returns one rune for all that differ in case only.
func fold(r rune) rune {
	if r < utf8.RuneSelf {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	if least < utf8.RuneSelf {
		return unicode.ToLower(least)
	}
	return least
}

// matcher compiles the match of the route at work.
func (p *compiler) matcher(m *config.Match) matcher {
	return matcher{
		recipients: p.mailboxes("match.recipient", m.Recipient),
		senders:    p.mailboxes("match.sender", m.Sender),
		clients:    m.Client,
		users:      m.User,
	}
}

func (p *compiler) mailboxes(key string, list []string) []mailbox {
	if len(list) == 0 {
		return nil
	}
	boxes := make([]mailbox, len(list))
	for i, s := range list {
		b, wrong := parseMailbox(s)
		if b.null && key == "match.recipient" {
			wrong = "is the null sender: no recipient is"
		}
		if wrong != "" {
			p.fault(key+"["+strconv.Itoa(i)+"]", strconv.Quote(s)+" "+wrong)
		}
		boxes[i] = b
	}
	return boxes
}

const (
	notAMailbox = "is not an address, a domain, a .suffix or a pattern (like user@example.com, example.com, .example.com, *@example.com)"
	wildDomain  = "has a * in a domain that is not ASCII: write its labels as xn--…"
)

// parseMailbox reads an entry of match.recipient or match.sender. What it returns as wrong, unless empty, completes a
// sentence that begins with the entry.
func parseMailbox(s string) (b mailbox, wrong string) {
	if s == "<>" {
		return mailbox{null: true}, ""
	}
	if strings.EqualFold(s, "postmaster") {
		return b, "would be a domain: write postmaster@*"
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		b.local.how = anything
		b.domain, wrong = parseDomains(s)
		return b, wrong
	}
	if b.local, wrong = parseLocals(s[:at]); wrong != "" {
		return b, wrong
	}
	if strings.HasPrefix(s[at+1:], ".") {
		return b, notAMailbox
	}
	b.domain, wrong = parseDomains(s[at+1:])
	return b, wrong
}

// parseLocals reads what local parts are compared with. A star in quotes is a star.
func parseLocals(s string) (glob, string) {
	if s == "*" {
		return glob{how: anything}, ""
	}
	quoted := strings.HasPrefix(s, `"`)
	probe := s
	if !quoted {
		probe = strings.ReplaceAll(s, "*", "x")
	}
	a, err := address.Parse(probe + "@x")
	if err != nil {
		return glob{}, notAMailbox
	}
	if quoted || probe == s {
		return glob{text: a.Local}, ""
	}
	return glob{wild, strings.Map(fold, s)}, ""
}

// parseDomains reads what domains are compared with: a domain, a suffix that begins with a dot, or a pattern.
func parseDomains(s string) (glob, string) {
	if s == "*" {
		return glob{how: anything}, ""
	}
	if rest, suffix := strings.CutPrefix(s, "."); suffix && !strings.Contains(s, "*") {
		domain, err := address.ParseDomain(rest)
		if err != nil || strings.HasPrefix(rest, "[") {
			return glob{}, notAMailbox
		}
		return glob{under, "." + domain}, ""
	}
	if !strings.Contains(s, "*") {
		domain, err := address.ParseDomain(s)
		if err != nil {
			return glob{}, notAMailbox
		}
		return glob{text: domain}, ""
	}
	if !address.IsASCII(s) {
		return glob{}, wildDomain
	}
	if _, err := address.ParseDomain(strings.ReplaceAll(s, "*", "x")); err != nil || strings.HasPrefix(s, "[") {
		return glob{}, notAMailbox
	}
	return glob{wild, strings.ToLower(s)}, ""
}
