package mail

import "slices"

// DSN is what a client asked of the notifications about one recipient (RFC 3461), validated and as it was sent. lsmtpd writes no
// notifications: the worker owes them.
type DSN struct {
	Notify string // "" | NEVER | a list of SUCCESS, FAILURE, DELAY
	ORcpt  string // type;xtext
}

func (d DSN) notify() string { return d.Notify }
func (d DSN) orcpt() string  { return d.ORcpt }

// asked tells whether the client asked for anything that field returns.
func (d *Delivery) asked(field func(DSN) string) bool {
	return slices.ContainsFunc(d.DSN, func(r DSN) bool { return field(r) != "" })
}

// addDSN adds to h the headers of what was asked for. The arrays are in the order of the recipients.
func (d *Delivery) addDSN(h map[string]any) {
	if d.Envelope.Ret != "" {
		h["lsmtpd-dsn-ret"] = d.Envelope.Ret
	}
	if d.Envelope.EnvID != "" {
		h["lsmtpd-dsn-envid"] = wellFormed(d.Envelope.EnvID)
	}
	for _, array := range dsnArrays {
		if !d.asked(array.field) {
			continue
		}
		values := make([]any, len(d.DSN))
		for i, r := range d.DSN {
			values[i] = wellFormed(array.field(r))
		}
		h["lsmtpd-dsn-"+array.name] = values
	}
}

// dsnSize returns the octets that addDSN adds to a header table without its recipients, and which arrays have an item for each.
func (d *Delivery) dsnSize() (n int, arrays []func(DSN) string) {
	long := func(name, value string) int { return 1 + len("lsmtpd-dsn-"+name) + 1 + 4 + len(value) }
	if d.Envelope.Ret != "" {
		n += long("ret", d.Envelope.Ret)
	}
	if d.Envelope.EnvID != "" {
		n += long("envid", wellFormed(d.Envelope.EnvID))
	}
	for _, array := range dsnArrays {
		if d.asked(array.field) {
			n += long(array.name, "")
			arrays = append(arrays, array.field)
		}
	}
	return n, arrays
}

var dsnArrays = []struct {
	name  string
	field func(DSN) string
}{
	{"notify", DSN.notify},
	{"orcpt", DSN.orcpt},
}

// writeDSN writes the payload's key, where anything was asked for at all.
func (d *Delivery) writeDSN(p *pen) {
	e := d.Envelope
	if e.Ret == "" && e.EnvID == "" && !d.asked(DSN.notify) && !d.asked(DSN.orcpt) {
		return
	}
	p.raw(`,"dsn":{"ret":`)
	p.text(e.Ret)
	p.raw(`,"envid":`)
	p.text(e.EnvID)
	for _, array := range dsnArrays {
		p.raw(`,"`)
		p.raw(array.name)
		p.raw(`":[`)
		for i, r := range d.DSN {
			if i > 0 {
				p.raw(",")
			}
			p.text(array.field(r))
		}
		p.raw("]")
	}
	p.raw("}")
}

// wireDSN is the payload's key as it is read.
type wireDSN struct {
	Ret    string   `json:"ret"`
	EnvID  string   `json:"envid"`
	Notify []string `json:"notify"`
	ORcpt  []string `json:"orcpt"`
}

// of returns what was asked for each of n recipients.
func (w *wireDSN) of(n int) []DSN {
	if len(w.Notify) == 0 && len(w.ORcpt) == 0 {
		return nil
	}
	all := make([]DSN, n)
	for i := range all {
		if i < len(w.Notify) {
			all[i].Notify = w.Notify[i]
		}
		if i < len(w.ORcpt) {
			all[i].ORcpt = w.ORcpt[i]
		}
	}
	return all
}
