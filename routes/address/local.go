package address

import (
	"strings"
	"unicode/utf8"
)

// parseLocal reads the local part at the beginning of s, which is valid UTF-8. rest is empty, or begins at the "@".
func parseLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		return parseQuoted(s)
	}
	end := strings.IndexByte(s, '@')
	if end < 0 {
		end = len(s)
	}
	local, rest = s[:end], s[end:]
	if len(local) > maxLocal {
		return "", "", ErrLength
	}
	if !isDotString(local) {
		return "", "", ErrLocal
	}
	return local, rest, nil
}

// parseQuoted reads a quoted local part: s begins at its quote.
func parseQuoted(s string) (local, rest string, err error) {
	end := quotedEnd(s)
	if end == 0 || (end < len(s) && s[end] != '@') {
		return "", "", ErrLocal
	}
	if end > maxLocal {
		return "", "", ErrLength
	}
	local = s[1 : end-1]
	for _, r := range local {
		if isControl(r) {
			return "", "", ErrLocal
		}
	}
	if !strings.Contains(local, `\`) {
		return local, s[end:], nil
	}
	plain := make([]byte, 0, len(local))
	for i := 0; i < len(local); i++ {
		if local[i] == '\\' {
			i++
			if local[i] >= utf8.RuneSelf { // a quoted-pair is ASCII, RFC 6531 left it so
				return "", "", ErrLocal
			}
		}
		plain = append(plain, local[i])
	}
	return string(plain), s[end:], nil
}

// quotedEnd returns the index behind the quoted string that begins s, or 0 where it does not end.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// appendLocal appends a local part in canonical quoting.
func appendLocal(b []byte, local string) []byte {
	if isDotString(local) {
		return append(b, local...)
	}
	b = append(b, '"')
	for i := range len(local) {
		if local[i] == '"' || local[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, local[i])
	}
	return append(b, '"')
}

// isDotString tells whether s needs no quotes: atoms with single dots between them (RFC 5321 section 4.1.2, RFC 6531
// section 3.3).
func isDotString(s string) bool {
	dot := true // an atom must come
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			if dot {
				return false
			}
			dot = true
			continue
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(s[i:])
			if isControl(r) {
				return false
			}
			i += size - 1
		case !isAtext(c):
			return false
		}
		dot = false
	}
	return !dot
}

// isControl tells the C0 and C1 control characters and DEL. RFC 6531 lets C1 pass in an address; a log or a terminal would
// obey it.
func isControl(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f
}

func isAtext(c byte) bool {
	return atext[c>>6]&(1<<(c&63)) != 0
}

// atext is the set of RFC 5322 section 3.2.3, a bit for each octet.
var atext = func() (set [4]uint64) {
	const signs = "!#$%&'*+-/=?^_`{|}~"
	for c := range byte(128) {
		if isLetDig(c) || strings.IndexByte(signs, c) >= 0 {
			set[c>>6] |= 1 << (c & 63)
		}
	}
	return set
}()

func isLetDig(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
