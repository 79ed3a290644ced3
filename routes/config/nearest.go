package config

import "strings"

// DidYouMean returns " (did you mean …?)" with the candidate nearest to text, or "" where none is near.
func DidYouMean(text string, candidates []string) string {
	if len(text) > 64 {
		return ""
	}
	best, least := "", len(text)/3+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(text), c); d <= least && (d < least || best == "") {
			best, least = c, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// distance counts the letters to insert, drop, change or swap with their neighbour that make a into b. A hyphen or a
// missing underscore is an underscore.
func distance(a, b string) int {
	squeeze := strings.NewReplacer("-", "", "_", "")
	a, b = squeeze.Replace(a), squeeze.Replace(b)
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// orList writes "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
