package main

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// columnsOf is how many columns of a terminal r takes: two for what East Asian fonts draw wide (Unicode's UAX 11), none for a mark
// that goes onto what comes before it.
func columnsOf(r rune) int {
	if r < unicode.MaxLatin1 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) || r >= 0x1160 && r <= 0x11ff { // the latter are the inner and last letters of a Hangul syllable
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// displayWidth is how many columns s takes.
func displayWidth(s string) int {
	n := 0
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// fits is how many octets at the beginning of s fit into n columns, with the marks on the last one.
func fits(s string, n int) int {
	for i, r := range s {
		if n -= columnsOf(r); n < 0 {
			return i
		}
	}
	return len(s)
}

// fitsBehind is how many octets at the end of s fit into n columns. None begins with a mark.
func fitsBehind(s string, n int) int {
	fit := 0
	for end := len(s); end > 0; {
		r, size := utf8.DecodeLastRuneInString(s[:end])
		columns := columnsOf(r)
		if n -= columns; n < 0 {
			break
		}
		if end -= size; columns > 0 {
			fit = len(s) - end
		}
	}
	return fit
}

// firstRune is the first rune of s, with the octets that it has there.
func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}
