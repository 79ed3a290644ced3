package routes

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"lsmtpd/routes/config"
)

// Compile turns a configuration into a Table. Its error is config.Faults.
func Compile(c *config.Config) (*Table, error) {
	t := &Table{Config: c, Listeners: make([]*Listener, len(c.Listeners))}
	var faults config.Faults
	warnings := append(config.Faults(nil), c.Warnings...)
	for i := range c.Listeners {
		p := &compiler{l: &c.Listeners[i]}
		t.Listeners[i] = p.listener()
		faults = append(faults, p.faults...)
		warnings = append(warnings, p.warnings...)
	}
	if len(faults) > 0 {
		return nil, c.Sorted(faults)
	}
	t.Warnings = c.Sorted(warnings)
	return t, nil
}

// compiler turns one listener into its routes, and collects what is wrong with them.
type compiler struct {
	l                *config.Listener
	route            int // at work; -1 for the listener's own destination
	faults, warnings config.Faults

	// of the listener, for the routes that say nothing else
	exchange, key *template
	headers       []header
	static        map[string]string // the headers, where none holds a name
}

// header is one AMQP header of a destination.
type header struct {
	name  string
	value *template
}

// fault reports what is wrong with a key of the route at work.
func (p *compiler) fault(key, message string) {
	if p.route < 0 {
		p.faults = append(p.faults, p.l.Fault(key, message))
		return
	}
	p.faults = append(p.faults, p.l.RouteFault(p.route, key, message))
}

func (p *compiler) listener() *Listener {
	l := &Listener{Listener: p.l, routes: make([]Route, len(p.l.Routes))}
	p.route = -1
	p.exchange = p.template("exchange", p.l.Exchange)
	p.key = p.template("routing_key", p.l.RoutingKey)
	p.headers = p.headerTemplates(p.l.Headers)
	p.static = staticHeaders(p.headers)
	if p.exchange != nil {
		l.fallback = &Route{Name: "default"}
		p.destination(l.fallback, &config.Route{}, nil)
	}
	for i := range p.l.Routes {
		p.route = i
		p.compile(&l.routes[i], &p.l.Routes[i])
	}
	if p.exchange == nil && len(l.routes) == 0 {
		p.warnings = append(p.warnings, p.l.Fault("", "has neither exchange nor routes: every recipient is refused"))
	}
	return l
}

// compile fills in route r from its configuration.
func (p *compiler) compile(r *Route, c *config.Route) {
	r.Name = c.Name
	if r.Name == "" {
		r.Name = "#" + strconv.Itoa(p.route+1)
	}
	r.match = p.matcher(&c.Match)
	if c.Reject == "" {
		p.destination(r, c, &r.match)
		return
	}
	refusal, wrong := parseRefusal(c.Reject)
	if wrong != "" {
		p.fault("reject", wrong)
	}
	r.Refusal = refusal
	if c.Exchange != nil || c.RoutingKey != nil || c.Format != "" || c.Headers != nil {
		p.fault("reject", "refuses the mail, and exchange, routing_key, format or headers say where it goes: keep one of the two")
	}
}

// destination fills in where route r sends mail; m is what its recipients must match, nil for anything.
func (p *compiler) destination(r *Route, c *config.Route, m *matcher) {
	r.exchange, r.key, r.format = p.exchange, p.key, p.l.Format
	if c.Exchange != nil {
		r.exchange = p.template("exchange", c.Exchange)
	}
	if c.RoutingKey != nil {
		r.key = p.template("routing_key", c.RoutingKey)
	}
	if c.Format != "" {
		r.format = c.Format
	}
	r.headers, r.static = p.headers, p.static
	if c.Headers != nil {
		all := maps.Clone(c.Headers)
		for name, value := range p.l.Headers {
			if _, own := all[name]; !own {
				all[name] = value
			}
		}
		r.headers = p.headerTemplates(all)
		r.static = staticHeaders(r.headers)
	}
	if r.exchange == nil {
		p.fault("", "has no exchange, and its listener has none either: give one of them exchange, or the route reject")
		return
	}
	own := m == nil || c.Exchange != nil
	if name := r.exchange.uncontrolled(m); own && name != "" {
		p.fault("exchange", "{"+name+"} is not allowed here: a sender could choose the exchange by it; "+controlledNames)
	}
	if !r.exchange.isEmpty() || !own && c.RoutingKey == nil {
		return
	}
	if r.key == nil || r.key.isEmpty() {
		p.fault("routing_key", "is missing: on the default exchange it names the queue")
		return
	}
	if name := r.key.uncontrolled(m); name != "" {
		p.fault("routing_key", "{"+name+"} is not allowed on the default exchange: a sender could choose the queue by it; "+controlledNames)
	}
}

const controlledNames = "allowed are {listener}, {user}, and {recipient.domain} where match.recipient names the domains"

// template parses a template of the configuration; nil stays nil. What is wrong stays a text, so that nothing else is missed.
func (p *compiler) template(key string, text *string) *template {
	if text == nil {
		return nil
	}
	t, wrong := parseTemplate(*text, p.l.Name)
	if wrong != "" {
		p.fault(key, strconv.Quote(*text)+": "+wrong)
		return &template{text: *text}
	}
	return t
}

// headerTemplates parses headers, in the order of their names.
func (p *compiler) headerTemplates(values map[string]string) []header {
	if len(values) == 0 {
		return nil
	}
	headers := make([]header, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		headers = append(headers, header{name, p.template("headers."+name, &value)})
	}
	return headers
}

// staticHeaders renders headers that are the same for every mail, once; nil where one is not.
func staticHeaders(headers []header) map[string]string {
	static := make(map[string]string, len(headers))
	for _, h := range headers {
		if !h.value.isLiteral() {
			return nil
		}
		static[h.name] = h.value.text
	}
	return static
}

const (
	defaultEnhanced = ".7.1"
	defaultText     = "refused by the rules of this server"
	maxReplyText    = 400 // octets; a reply line has 512 in all (RFC 5321 section 4.5.3.1.5)
)

// parseRefusal reads a reply like "550 5.1.1 this address has moved". Code, enhanced code (RFC 3463) and text may be left
// out: the default is 550 5.7.1.
func parseRefusal(s string) (refusal *Refusal, wrong string) {
	const like = " is not a reply that refuses (like 550 5.1.1 this address has moved)"
	r := &Refusal{Code: 550, Text: s}
	if s[0] >= '0' && s[0] <= '9' {
		code, rest, _ := strings.Cut(s, " ")
		n, err := strconv.Atoi(code)
		if err != nil || len(code) != 3 || n < 400 || n > 559 || code[1] > '5' {
			return nil, strconv.Quote(s) + like
		}
		r.Code, r.Text = n, strings.TrimLeft(rest, " ")
	}
	if r.Code == 421 {
		return nil, strconv.Quote(s) + ": 421 says that the server goes away: take 450 or 451"
	}
	class := strconv.Itoa(r.Code / 100)
	r.Enhanced = class + defaultEnhanced
	if enhanced, rest, _ := strings.Cut(r.Text, " "); isEnhanced(enhanced) {
		if enhanced[:1] != class {
			return nil, strconv.Quote(s) + ": " + enhanced + " is of another class than " + strconv.Itoa(r.Code)
		}
		r.Enhanced, r.Text = enhanced, rest
	}
	if r.Text = strings.TrimSpace(r.Text); r.Text == "" {
		r.Text = defaultText
	}
	for i := range len(r.Text) {
		if r.Text[i] < ' ' || r.Text[i] > '~' {
			return nil, strconv.Quote(s) + " holds a sign that a reply cannot: only ASCII is understood by every client"
		}
	}
	if len(r.Text) > maxReplyText {
		return nil, "is over " + strconv.Itoa(maxReplyText) + " octets"
	}
	return r, ""
}

// isEnhanced tells an enhanced status code: class.subject.detail, of one and twice up to three digits.
func isEnhanced(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return false
	}
	for _, part := range parts {
		if part == "" || len(part) > 3 || strings.Trim(part, "0123456789") != "" {
			return false
		}
	}
	return true
}
