package mail

import (
	"encoding/binary"
	"math/bits"
)

// growth tells for each octet how many more it takes inside a JSON string (RFC 8259 section 7): one for the short escapes,
// five for \u00XX, none for what stands as it is. Octets of multi-byte runes stand as they are: only valid UTF-8 gets here.
var growth = func() (t [256]uint8) {
	for c := range 0x20 {
		t[c] = 5
	}
	for c := range short {
		if short[c] != 0 {
			t[c] = 1
		}
	}
	return t
}()

// short holds the letter behind the backslash of the octets that have a two-letter escape.
var short = [256]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks the octets of a little-endian word that must be escaped, each by its highest bit. The lowest mark is exact,
// those above it may be false; no mark means no such octet.
func special(w uint64) uint64 {
	quote, backslash := w^('"'*ones), w^('\\'*ones)
	return ((w-0x20*ones)&^w | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

// escapedLen returns how many octets b takes inside a JSON string.
func escapedLen(b []byte) int {
	n := len(b)
	for ; len(b) >= 8; b = b[8:] {
		if special(binary.LittleEndian.Uint64(b)) == 0 {
			continue
		}
		for _, c := range b[:8] {
			n += int(growth[c])
		}
	}
	for _, c := range b {
		n += int(growth[c])
	}
	return n
}

// appendEscaped appends s as it stands inside a JSON string. s is valid UTF-8.
func appendEscaped(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i := 0; i < len(s); {
		if len(s)-i >= 8 {
			mark := special(binary.LittleEndian.Uint64(s[i:]))
			if mark == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(mark) / 8
		}
		c := s[i]
		if growth[c] == 0 {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		if letter := short[c]; letter != 0 {
			b = append(b, '\\', letter)
		} else {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(b, s[start:]...)
}
