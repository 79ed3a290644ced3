package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// printable returns s with every octet and rune that a terminal would obey instead of showing written as an escape: control
// characters, invalid UTF-8, and the invisible ones that turn the direction of a line. Line feeds and tabs stay.
func printable(s string) string {
	if !strings.ContainsFunc(s, obeyed) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case obeyed(r):
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// printableLine is printable for what has to stay on one line.
func printableLine(s string) string {
	return strings.ReplaceAll(printable(s), "\n", `\n`)
}

// obeyed tells a rune that is not simply shown. Invalid octets come as utf8.RuneError.
func obeyed(r rune) bool {
	return r != '\n' && r != '\t' && (r == utf8.RuneError || !strconv.IsPrint(r))
}
