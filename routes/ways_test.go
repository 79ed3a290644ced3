package routes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestWays_are_what_is_known_of_destinations_before_there_is_mail(t *testing.T) {
	table, err := load(t, below(`
exchange: "own-{listener}"
routing_key: "mail.{recipient.domain}"
routes:
  - {match: {recipient: a.example}, routing_key: a}
  - {match: {recipient: b.example}, reject: "550 5.1.1 gone"}
  - {match: {recipient: c.example}, exchange: "to-{recipient.domain}", routing_key: c}
  - {match: {recipient: d.example}, exchange: "", routing_key: d}
  - {match: {recipient: e.example}, exchange: "own-inbound"}
`))
	if err != nil {
		t.Fatal(err)
	}
	known := func(s *string) string {
		if s == nil {
			return "?"
		}
		return fmt.Sprintf("%q", *s)
	}
	var got []string
	for _, w := range table.Ways() {
		got = append(got, fmt.Sprintf("%d %s %s", w.Route, known(w.Exchange), known(w.Key)))
	}
	want := []string{`-1 "own-inbound" ?`, `0 "own-inbound" "a"`, `2 ? "c"`, `3 "" "d"`, `4 "own-inbound" ?`}
	if !slices.Equal(got, want) {
		t.Errorf("ways\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := table.Exchanges(); !slices.Equal(got, []string{"", "own-inbound"}) {
		t.Errorf("exchanges %q", got)
	}
}
