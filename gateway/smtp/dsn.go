package smtp

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Octets of a value as it is sent (RFC 3461 section 4).
const (
	maxEnvID = 100
	maxORcpt = 500
)

// addRet reads RET (RFC 3461 section 4.3).
func addRet(p MailParams, value string) (MailParams, Reply) {
	for _, known := range []string{"FULL", "HDRS"} {
		if equalFold(value, known) {
			p.Ret = known
			return p, Reply{}
		}
	}
	return p, replyBadParam
}

// addEnvID reads ENVID (RFC 3461 section 4.4).
func addEnvID(p MailParams, value string) (MailParams, Reply) {
	if value == "" || len(value) > maxEnvID || !isXtext(value) {
		return p, replyBadParam
	}
	p.EnvID = value
	return p, Reply{}
}

// addNotify reads NOTIFY (RFC 3461 section 4.1).
func addNotify(p RcptParams, value string) (RcptParams, Reply) {
	if equalFold(value, "NEVER") {
		p.Notify = "NEVER"
		return p, Reply{}
	}
	events := []string{"SUCCESS", "FAILURE", "DELAY"}
	var asked []string
	for element := range strings.SplitSeq(value, ",") {
		i := slices.IndexFunc(events, func(e string) bool { return equalFold(element, e) })
		if i < 0 || slices.Contains(asked, events[i]) {
			return p, replyBadParam
		}
		asked = append(asked, events[i])
	}
	p.Notify = strings.Join(asked, ",")
	return p, Reply{}
}

// addORcpt reads ORCPT (RFC 3461 section 4.2; of the type utf-8 RFC 6533 section 3).
func addORcpt(p RcptParams, value string) (RcptParams, Reply) {
	kind, original, ok := strings.Cut(value, ";")
	if !ok || len(value) > maxORcpt || original == "" || !isAtom(kind) {
		return p, replyBadParam
	}
	valid := isXtext
	if equalFold(kind, "UTF-8") {
		valid = isUTF8Xtext
	}
	if !valid(original) {
		return p, replyBadParam
	}
	p.ORcpt = value
	return p, Reply{}
}

// isXtext tells whether s is xtext (RFC 3461 section 4) of nothing but printable ASCII. A NUL or a line end that hides in it
// would be somebody's end of a string, or a line of his own, once it is decoded.
func isXtext(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			code, err := strconv.ParseUint(s[i+1:min(i+3, len(s))], 16, 8)
			if i+3 > len(s) || err != nil {
				return false
			}
			c = byte(code)
			i += 2
		} else if c == ' ' || c == '=' {
			return false
		}
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isUTF8Xtext tells utf-8-addr-xtext and utf-8-addr-unitext (RFC 6533 section 3): UTF-8 as it is, or as "\x{…}".
func isUTF8Xtext(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if r == '\\' {
			code, rest, ok := strings.Cut(s, "}")
			hex, begins := strings.CutPrefix(code, `\x{`)
			n, err := strconv.ParseUint(hex, 16, 32)
			if !ok || !begins || err != nil || n > utf8.MaxRune {
				return false
			}
			r, s = rune(n), rest
		} else {
			if r < utf8.RuneSelf && !isXtext(s[:size]) {
				return false
			}
			s = s[size:]
		}
		if r < ' ' || r >= 0x7f && r <= 0x9f || !utf8.ValidRune(r) {
			return false
		}
	}
	return true
}

// isAtom tells an Atom of RFC 5321 section 4.1.2.
func isAtom(s string) bool {
	for i := range len(s) {
		if !alphanumeric(s[i]) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", s[i]) < 0 {
			return false
		}
	}
	return s != ""
}
