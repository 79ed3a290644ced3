package routes

import (
	"maps"
	"slices"
	"strings"

	"lsmtpd/routes/address"
	"lsmtpd/routes/config"
)

// name is what a template may hold in braces.
type name uint8

const (
	literal name = iota
	recipient
	recipientLocal
	recipientTag
	recipientDomain
	sender
	senderDomain
	clientIP
	user
)

// names are all of them as they are written, but {listener}, which is known before any mail comes.
var names = map[string]name{
	"recipient": recipient, "recipient.local": recipientLocal, "recipient.tag": recipientTag,
	"recipient.domain": recipientDomain, "sender": sender, "sender.domain": senderDomain,
	"client.ip": clientIP, "user": user,
}

// part is a run of text, or a name.
type part struct {
	name name
	text string // of a literal; of a name as it is written
}

// template is a text with names in it, parsed.
type template struct {
	text  string // where there is no name
	parts []part // else: literals never stand beside each other
}

// parseTemplate parses s for a listener. What it returns as wrong, unless empty, says why s is none.
func parseTemplate(s, listener string) (t *template, wrong string) {
	t = &template{}
	var text strings.Builder
	for rest := s; ; {
		before, after, found := strings.Cut(rest, "{")
		if !found && text.Len() == 0 {
			t.end(before)
			return t, ""
		}
		text.WriteString(before)
		if !found {
			t.end(text.String())
			return t, ""
		}
		inside, behind, closed := strings.Cut(after, "}")
		n, known := names[inside]
		switch {
		case !closed:
			return t, "{ begins a name, which } must end (like {recipient.domain})"
		case inside == "listener":
			text.WriteString(listener)
		case !known:
			return t, "there is no {" + inside + "}" + config.DidYouMean(inside, append(slices.Sorted(maps.Keys(names)), "listener"))
		default:
			if text.Len() > 0 {
				t.parts = append(t.parts, part{literal, text.String()})
				text.Reset()
			}
			t.parts = append(t.parts, part{n, inside})
		}
		rest = behind
	}
}

// end adds the last literal.
func (t *template) end(text string) {
	switch {
	case t.parts == nil:
		t.text = text
	case text != "":
		t.parts = append(t.parts, part{literal, text})
	}
}

// isLiteral tells a template without names.
func (t *template) isLiteral() bool { return t.parts == nil }

// isEmpty tells the empty text.
func (t *template) isEmpty() bool { return t.parts == nil && t.text == "" }

// uncontrolled returns a name of t that the configuration does not control, or "": what senders write must not choose an
// exchange or a queue. m is what the recipients match, nil for anything.
func (t *template) uncontrolled(m *matcher) string {
	for _, p := range t.parts {
		switch p.name {
		case literal, user:
		case recipientDomain:
			if m == nil || !m.namesDomains() {
				return p.text
			}
		default:
			return p.text
		}
	}
	return ""
}

// use says where a text goes, and so what must not be in it.
type use uint8

const (
	asHeader use = iota // and exchange: no control octets
	asKey               // nor the wildcards of topic exchanges
)

// render returns t's text for q.
func (t *template) render(q *Query, u use) string {
	if t.isLiteral() {
		return t.text
	}
	var space [256]byte
	b := space[:0]
	for i := range t.parts {
		p := &t.parts[i]
		if p.name == literal {
			b = append(b, p.text...)
			continue
		}
		begin := len(b)
		b = p.name.append(b, q)
		if len(b) == begin {
			b = append(b, '_')
			continue
		}
		sanitise(b[begin:], u)
	}
	return string(b)
}

// append appends what n stands for; nothing where there is nothing.
func (n name) append(b []byte, q *Query) []byte {
	switch n {
	case recipient:
		return q.Recipient.AppendTo(b)
	case recipientLocal:
		return append(b, q.Recipient.LocalString()...)
	case recipientTag:
		return append(b, tag(q.Recipient)...)
	case recipientDomain:
		return append(b, q.Recipient.Domain...)
	case sender:
		return q.Sender.AppendTo(b)
	case senderDomain:
		return append(b, q.Sender.Domain...)
	case clientIP:
		if !q.Client.IsValid() {
			return b
		}
		return q.Client.Unmap().WithZone("").AppendTo(b)
	case user:
		return append(b, q.User...)
	}
	return b
}

// tag returns what follows the first "+" of a local part. One that needs quotes has none: nobody makes sub-addresses so, and
// it would come out unquoted.
func tag(a address.Address) string {
	local := a.LocalString()
	if strings.HasPrefix(local, `"`) {
		return ""
	}
	_, tag, _ := strings.Cut(local, "+")
	return tag
}

// sanitise replaces what a text of others must not bring into a header or a key.
func sanitise(b []byte, u use) {
	for i, c := range b {
		if c < ' ' || c == 0x7f || u == asKey && (c == '*' || c == '#') {
			b[i] = '_'
		}
	}
}
