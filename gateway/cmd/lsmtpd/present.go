package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"strings"
	"time"
	"unicode/utf16"

	amqp "github.com/rabbitmq/amqp091-go"
)

// form is how tail prints a mail.
type form int

const (
	blocks  form = iota // for people
	objects             // JSON, one on a line
	mails               // the mail itself
)

// printer writes what a queue delivered.
type printer struct {
	form     form
	terminal bool // then no octet from outside may reach it raw
}

// seen is one AMQP message as tail shows it. It is read as a worker would, and tolerantly: whoever may write to an exchange
// can send anything.
type seen struct {
	Time        string            `json:"time,omitempty"` // when the mail was received, as the message tells it
	ID          string            `json:"id"`             // AMQP's message-id
	MailID      string            `json:"mail_id,omitempty"`
	Exchange    string            `json:"exchange"`
	RoutingKey  string            `json:"routing_key"`
	Listener    string            `json:"listener,omitempty"`
	ClientIP    string            `json:"client_ip,omitempty"`
	Helo        string            `json:"helo,omitempty"`
	User        string            `json:"user,omitempty"`
	TLS         string            `json:"tls,omitempty"`
	Sender      string            `json:"sender"`
	Recipients  []string          `json:"recipients"`
	Size        int64             `json:"size"` // octets of the mail
	Subject     string            `json:"subject,omitempty"`
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"` // AMQP's, without those that are told above

	mail    bool // it has the form of lsmtpd's messages
	content []byte
}

// print writes d to w.
func (p *printer) print(w io.Writer, d *amqp.Delivery) error {
	s := look(d)
	var err error
	switch p.form {
	case mails:
		_, err = w.Write(p.raw(s.content))
	case objects:
		_, err = w.Write(jsonLine(s))
	default:
		_, err = io.WriteString(w, s.block())
	}
	return err
}

// raw is the content for w: octet for octet, but on a terminal.
func (p *printer) raw(content []byte) []byte {
	if !p.terminal {
		return content
	}
	text := printable(strings.ReplaceAll(string(content), "\r\n", "\n"))
	return []byte(strings.TrimSuffix(text, "\n") + "\n\n")
}

// look reads what lsmtpd, or somebody else, published.
func look(d *amqp.Delivery) *seen {
	s := &seen{
		ID: d.MessageId, Exchange: d.Exchange, RoutingKey: d.RoutingKey, ContentType: d.ContentType,
		Recipients: []string{}, Size: int64(len(d.Body)), content: d.Body,
	}
	s.readPayload(d.Body)
	s.readHeaders(d.Headers)
	if s.Time == "" && !d.Timestamp.IsZero() {
		s.Time = d.Timestamp.UTC().Format(time.RFC3339)
	}
	s.Subject = subject(s.content)
	return s
}

// readPayload reads the JSON payload, where body is one.
func (s *seen) readPayload(body []byte) {
	var payload struct {
		Timestamp     string   `json:"timestamp"`
		MessageID     string   `json:"message_id"`
		ClientAddress string   `json:"client_address"`
		Recipients    []string `json:"recipients"`
		EmailContent  *string  `json:"email_content"`
		Sender        string   `json:"sender"`
		MailID        string   `json:"mail_id"`
		Listener      string   `json:"listener"`
		ClientIP      string   `json:"client_ip"`
		User          string   `json:"user"`
		TLS           string   `json:"tls"`
		Size          *int64   `json:"size"`
		Encoding      string   `json:"encoding"`
	}
	if !bytes.HasPrefix(body, []byte("{")) || json.Unmarshal(body, &payload) != nil || payload.EmailContent == nil {
		return
	}
	content := []byte(*payload.EmailContent)
	if payload.Encoding == "base64" {
		decoded, err := base64.StdEncoding.DecodeString(*payload.EmailContent)
		if err != nil {
			return
		}
		content = decoded
	}
	s.mail, s.content, s.Size = true, content, int64(len(content))
	if payload.Size != nil {
		s.Size = *payload.Size
	}
	if s.ID == "" {
		s.ID = payload.MessageID
	}
	s.Time, s.Helo, s.Sender, s.Recipients = payload.Timestamp, payload.ClientAddress, payload.Sender, payload.Recipients
	s.MailID, s.Listener, s.ClientIP = payload.MailID, payload.Listener, payload.ClientIP
	s.User, s.TLS = payload.User, payload.TLS
}

// readHeaders reads the envelope that travels with the format raw, and keeps what else there is.
func (s *seen) readHeaders(headers amqp.Table) {
	known := map[string]*string{
		"lsmtpd-mail-id": &s.MailID, "lsmtpd-listener": &s.Listener, "lsmtpd-sender": &s.Sender,
		"lsmtpd-client-ip": &s.ClientIP, "lsmtpd-helo": &s.Helo, "lsmtpd-user": &s.User, "lsmtpd-tls": &s.TLS,
		"lsmtpd-received-at": &s.Time,
	}
	for name, value := range headers {
		text, isText := value.(string)
		number, isNumber := value.(int64)
		list, isList := value.([]any)
		switch field := known[name]; {
		case field != nil && isText:
			*field = text
			s.mail = true
		case name == "lsmtpd-size" && isNumber:
			s.Size = number
		case name == "lsmtpd-recipients" && isList:
			s.Recipients = make([]string, len(list))
			for i := range list {
				s.Recipients[i] = fmt.Sprint(list[i])
			}
		default:
			if s.Headers == nil {
				s.Headers = map[string]string{}
			}
			s.Headers[name] = fmt.Sprint(value)
		}
	}
}

// block is s for people, followed by an empty line.
func (s *seen) block() string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-11s %s\n", name, printableLine(value))
		}
	}
	fmt.Fprintf(&b, "%s  %s\n", printableLine(localTime(s.Time)), printableLine(cmp.Or(s.ID, "(no message id)")))
	if s.MailID != s.ID {
		line("mail", s.MailID) // the id in the reply to the client; each further delivery of a mail has its own
	}
	line("exchange", s.Exchange)
	line("key", s.RoutingKey)
	line("listener", s.Listener)
	if s.mail {
		line("sender", cmp.Or(s.Sender, "<>"))
		line("recipients", strings.Join(s.Recipients, ", "))
	}
	line("size", count(int(s.Size), "octet"))
	line("subject", s.Subject)
	if !s.mail {
		line("type", s.ContentType)
		line("note", "not in the form of lsmtpd's messages")
	}
	b.WriteString("\n")
	return b.String()
}

// localTime is a time of the message in this machine's zone, or as it came where it cannot be read.
func localTime(text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return cmp.Or(text, "(no time)")
	}
	return t.Local().Format(time.DateTime)
}

// jsonLine is v as JSON on a line. What printable would escape is escaped in JSON's own way, so that it stays JSON.
func jsonLine(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("print JSON: " + err.Error()) // strings, numbers and times always encode
	}
	if !bytes.ContainsFunc(b.Bytes(), obeyed) {
		return b.Bytes()
	}
	var escaped bytes.Buffer
	for _, r := range b.String() {
		if !obeyed(r) {
			escaped.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&escaped, `\u%04x`, unit)
		}
	}
	return escaped.Bytes()
}

// subject is the decoded Subject field of a mail (RFC 5322 3.6.5, RFC 2047), "" where there is none.
func subject(content []byte) string {
	field, found := "", false
	for line := range bytes.Lines(header(content)) {
		text := strings.TrimRight(string(line), "\r\n")
		folded := strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t")
		if found && !folded {
			break
		}
		name, value, _ := strings.Cut(text, ":")
		switch {
		case found:
			field += text
		case strings.EqualFold(strings.TrimRight(name, " \t"), "Subject"):
			field, found = value, true
		}
	}
	field = strings.TrimSpace(field)
	decoded, err := new(mime.WordDecoder).DecodeHeader(field)
	if err != nil {
		return field // a character set that is not known here
	}
	return decoded
}
