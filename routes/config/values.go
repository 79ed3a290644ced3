package config

import (
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// kind is one way to write a value.
type kind struct {
	// set puts text into v. What it returns, unless empty, completes a sentence: "text" …
	set func(d *decoder, v reflect.Value, text string, f *field) (wrong string)
	// tags are the YAML types that may be written; none: text, which must be quoted where YAML reads it as something else.
	tags []string
	// want is what a value of the wrong shape is told to be.
	want string
	// number reads a bound.
	number func(text string) (int64, bool)
	// show writes v as the file would.
	show func(v reflect.Value) string
}

var (
	anyScalar = []string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp"}
	numeric   = []string{"!!str", "!!int", "!!float"}
)

// kinds are all of them, by the name that the tag "is" has.
var kinds = map[string]kind{
	"text":          {set: setText, want: "text"},
	"choice":        {set: setChoice, want: "one of its words", tags: anyScalar},
	"flag":          {set: setFlag, want: "true or false", tags: []string{"!!bool"}, show: showFlag},
	"count":         {set: setCount, want: "a whole number", tags: []string{"!!int", "!!float"}, number: parseCount, show: showCount},
	"size":          {set: setSize, want: "a size (like 10MiB)", tags: numeric, number: parseSize, show: showSize},
	"duration":      {set: setDuration, want: "a duration (like 180s)", tags: numeric, number: parseDuration, show: showDuration},
	"quota":         {set: setQuota, want: "a percentage or a size (like 25% or 1GiB)", tags: numeric, show: showQuota},
	"network":       {set: setNetwork, want: "a network (like 192.0.2.0/24)", show: showNetwork},
	"reply":         {set: setReply, want: "a reply (like 550 5.1.1 text)"},
	"name":          {set: setName, want: "a name"},
	"user":          {set: setUser, want: "a user's name"},
	"bcrypt":        {set: setBcrypt, want: "a bcrypt hash"},
	"hostname":      {set: setHostname, want: "a host name (like mail.example.com)"},
	"path":          {set: setPath, want: "a path"},
	"socket":        {set: setSocket, want: "a path"},
	"tcp":           {set: setTCP, want: "an address (like 127.0.0.1:8025)"},
	"listen":        {set: setListen, want: "an address (like 127.0.0.1:25)"},
	"url":           {set: setURL, want: "an AMQP URL (like amqp://user:password@host:5672/)", show: showURL},
	"shortstr":      {set: setShortString, want: "text"},
	"named":         {set: setNamed, want: "a name"},
	"declared":      {set: setDeclared, want: "a name"},
	"exchange type": {set: setExchangeType, want: "a type of exchange"},
	"template":      {set: setTemplate, want: "text"},
}

func setText(_ *decoder, v reflect.Value, text string, _ *field) string {
	v.SetString(text)
	return ""
}

func setChoice(_ *decoder, v reflect.Value, text string, f *field) string {
	if !slices.Contains(f.one, text) {
		return "is not " + orList(f.one) + DidYouMean(text, f.one)
	}
	v.SetString(text)
	return ""
}

func setFlag(_ *decoder, v reflect.Value, text string, _ *field) string {
	if text != "true" && text != "false" {
		return "is not true or false"
	}
	v.SetBool(text == "true")
	return ""
}

func setCount(_ *decoder, v reflect.Value, text string, f *field) string {
	n, ok := parseCount(text)
	if !ok || n > math.MaxInt32 {
		return "is not a whole number from 0 to " + strconv.Itoa(math.MaxInt32)
	}
	return setNumber(v, n, f)
}

func setSize(_ *decoder, v reflect.Value, text string, f *field) string {
	n, ok := parseSize(text)
	if !ok {
		return "is not a size (like 10MiB)"
	}
	return setNumber(v, n, f)
}

func setDuration(_ *decoder, v reflect.Value, text string, f *field) string {
	n, ok := parseDuration(text)
	if !ok {
		return "is not a duration (like 180s)"
	}
	return setNumber(v, n, f)
}

func setNumber(v reflect.Value, n int64, f *field) string {
	if wrong := f.outside(n); wrong != "" {
		return wrong
	}
	v.SetInt(n)
	return ""
}

// outside tells a number beyond the bounds of f.
func (f *field) outside(n int64) string {
	if f.bounds == "" || n >= f.least && n <= f.most || n == 0 && f.zero {
		return ""
	}
	low, high, _ := strings.Cut(f.bounds, "..")
	wrong := "is not at least " + low
	if high != "" {
		wrong = "is not from " + low + " to " + high
	}
	if f.zero {
		wrong += ", nor 0 for no limit"
	}
	return wrong
}

func setQuota(_ *decoder, v reflect.Value, text string, _ *field) string {
	const wrong = "is not a percentage or a size (like 25% or 1GiB)"
	if number, percent := strings.CutSuffix(text, "%"); percent {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || strings.Trim(number, "0123456789.") != "" {
			return wrong
		}
		if p <= 0 || p > 100 {
			return "is not above 0% and at most 100%"
		}
		v.Set(reflect.ValueOf(Quota{Percent: p}))
		return ""
	}
	n, ok := parseSize(text)
	if !ok {
		return wrong
	}
	v.Set(reflect.ValueOf(Quota{Octets: n}))
	return ""
}

func setNetwork(_ *decoder, v reflect.Value, text string, _ *field) string {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return "is not a network (like 192.0.2.0/24 or 2001:db8::/32)"
		}
		p = netip.PrefixFrom(ip, ip.BitLen())
	}
	if p.Addr().Is4In6() {
		return "is an IPv4 network in IPv6 form: write it as IPv4"
	}
	if p != p.Masked() {
		return "has bits set behind its mask (like " + p.Masked().String() + ")"
	}
	v.Set(reflect.ValueOf(p))
	return ""
}

// setName takes what metrics, logs and queue names can carry everywhere.
func setName(_ *decoder, v reflect.Value, text string, _ *field) string {
	if text == "" || len(text) > 64 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return "is not a name: 1 to 64 letters, digits, dots, hyphens and underscores (like tenant-a)"
	}
	v.SetString(text)
	return ""
}

// setReply takes any text: what it means is its reader's.
func setReply(_ *decoder, v reflect.Value, text string, _ *field) string {
	if text == "" {
		return "is no reply (like 550 5.1.1 this address has moved)"
	}
	v.SetString(text)
	return ""
}

func parseCount(text string) (int64, bool) {
	n, err := strconv.ParseUint(text, 10, 63)
	return int64(n), err == nil
}

var units = []struct {
	name   string
	octets int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
}

func parseSize(text string) (int64, bool) {
	factor := int64(1)
	for _, u := range units {
		if number, found := strings.CutSuffix(text, u.name); found {
			text, factor = number, u.octets
			break
		}
	}
	n, ok := parseCount(text)
	if !ok || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

func parseDuration(text string) (int64, bool) {
	n, err := time.ParseDuration(text)
	return int64(n), err == nil && n >= 0
}

func showFlag(v reflect.Value) string     { return strconv.FormatBool(v.Bool()) }
func showCount(v reflect.Value) string    { return strconv.FormatInt(v.Int(), 10) }
func showDuration(v reflect.Value) string { return time.Duration(v.Int()).String() }
func showNetwork(v reflect.Value) string  { return v.Interface().(netip.Prefix).String() }

func showSize(v reflect.Value) string {
	n := v.Int()
	for _, u := range units {
		if n > 0 && u.octets > 1 && n%u.octets == 0 {
			return strconv.FormatInt(n/u.octets, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func showQuota(v reflect.Value) string {
	q := v.Interface().(Quota)
	if q.Percent > 0 {
		return strconv.FormatFloat(q.Percent, 'g', -1, 64) + "%"
	}
	return showSize(reflect.ValueOf(q.Octets))
}

// quote writes a value for a message: escaped, and cut where it is long.
func quote(text string) string {
	const most = 60
	if len(text) <= most {
		return strconv.Quote(text)
	}
	cut := most
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strconv.Quote(text[:cut]) + "…"
}

// control tells whether text holds a control character: none belongs into a name, a key or a path.
func control(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			return true
		}
	}
	return false
}
