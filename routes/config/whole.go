package config

import "strings"

// checkWhole tells what only the whole shows: what is there twice, and what does not go together.
func (d *decoder) checkWhole(c *Config) {
	if len(c.Listeners) == 0 && len(c.Include) == 0 && len(*d.faults) == 0 {
		d.report(Fault{
			Place: c.At("listeners"), Key: "listeners",
			Message: "there is none: mail needs one to come in (like {name: inbound, address: 127.0.0.1:2525})",
		})
	}
	d.checkNames(c.Listeners)
	d.checkAddresses(c)
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if l.Protocol == "lmtp" && strings.HasSuffix(l.Address, ":25") {
			d.report(l.Fault("address", "is port 25, where LMTP must not be spoken (RFC 2033 section 5): choose another"))
		}
		if l.Auth != nil && l.TLS == nil && !l.Auth.AllowPlaintext {
			d.report(l.Fault("auth", "is never offered without TLS: give tls, or say allow_plaintext: true"))
		}
	}
}

func (d *decoder) checkNames(listeners []Listener) {
	first := make(map[string]*Listener, len(listeners))
	for i := range listeners {
		l := &listeners[i]
		if other, twice := first[l.Name]; twice && l.Name != "" {
			f := l.Fault("name", quote(l.Name)+" is the name of the listener at "+other.Place.String()+" too")
			f.beside = other.Place.File
			d.report(f)
			continue
		}
		first[l.Name] = l
	}
}

// checkAddresses tells sockets that cannot be there together: two on one address, and a wildcard beside what it covers.
func (d *decoder) checkAddresses(c *Config) {
	taken := make(map[string]Fault, 2*len(c.Listeners)) // by claim: who has it
	claim := func(address string, by Fault) {
		if address == "" {
			return
		}
		own, clash := claims(address)
		for _, key := range clash {
			if other, found := taken[key]; found {
				by.Message = quote(address) + " overlaps with " + other.Message + " at " + other.Place.String() +
					": give one of them another address or port"
				by.beside = other.Place.File
				d.report(by)
				return
			}
		}
		for _, key := range own {
			if _, found := taken[key]; !found {
				taken[key] = by
			}
		}
	}
	claim(c.Admin.Address, Fault{Place: c.At("admin.address"), Key: "admin.address", Message: "admin.address, " + quote(c.Admin.Address)})
	if c.Admin.Socket != "" {
		socket := "unix:" + absolute(c.Admin.Socket)
		claim(socket, Fault{Place: c.At("admin.socket"), Key: "admin.socket", Message: "admin.socket, " + quote(c.Admin.Socket) + ","})
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		claim(l.Address, l.Fault("address", quote(l.Address)))
	}
}

// claims returns what a canonical address takes, and which claims of others it cannot bear. "4:25" is any IPv4 address with
// port 25, "6:25" any of IPv6.
func claims(address string) (own, clash []string) {
	if strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "systemd:") {
		return []string{address}, []string{address}
	}
	host, port, _ := cutPort(address)
	v4, v6 := "4:"+port, "6:"+port
	all4, all6, all := "0.0.0.0:"+port, "[::]:"+port, ":"+port
	switch {
	case host == "":
		return []string{all}, []string{all, all4, all6, v4, v6}
	case address == all4:
		return []string{all4}, []string{all, all4, v4}
	case address == all6:
		return []string{all6}, []string{all, all6, v6}
	case host[0] == '[':
		return []string{address, v6}, []string{address, all, all6}
	}
	return []string{address, v4}, []string{address, all, all4}
}
