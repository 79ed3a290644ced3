package config

import (
	"os"
	"strings"
)

// expand replaces each ${VAR} in text by the environment's, and each $$ by a dollar. A dollar before anything else stays:
// hashes hold many. What it returns as wrong, unless empty, says why it could not.
func expand(text string) (expanded, wrong string) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String(), ""
		}
		switch {
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			text = after[1:]
		case strings.HasPrefix(after, "{"):
			name, rest, closed := strings.Cut(after[1:], "}")
			if !closed || !isVariable(name) {
				return "", "${ begins the name of a variable (like ${NAME}); write $${ for the signs themselves"
			}
			value, set := os.LookupEnv(name)
			if !set {
				return "", "${" + name + "} is not set in the environment; write $${" + name + "} for the signs themselves"
			}
			b.WriteString(value)
			text = rest
		default:
			b.WriteByte('$')
			text = after
		}
	}
}

// isVariable tells a name that a shell takes.
func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
