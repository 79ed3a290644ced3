package config

import (
	"os"
	"strings"
	"testing"
)

// The lines of the reference between which the table of effects stands.
const (
	effectsBegin = "# When a change is in force. No key needs a restart; what is under way ends as it began.\n#\n"
	effectsEnd   = "\n# Lines like #key: value,"
)

// effectsTable is the table of effects, as the reference has it.
func effectsTable() string {
	var b strings.Builder
	for _, e := range []struct{ effect, means string }{
		{"live", "at once, for everybody"},
		{"transaction", "from the next MAIL on, in sessions that are open too"},
		{"session", "for clients that connect from then on"},
	} {
		b.WriteString("#   " + e.means + "\n")
		keys := effectKeys(root, "", e.effect)
		keys = append(keys, effectKeys(listenerGroup, "listeners.", e.effect)...)
		keys = append(keys, effectKeys(routeGroup, "listeners.routes.", e.effect)...)
		line := "#     "
		for i, key := range keys {
			if i < len(keys)-1 {
				key += ","
			}
			if len(line)+1+len(key) > 120 {
				b.WriteString(strings.TrimRight(line, " ") + "\n")
				line = "#     "
			}
			line += key + " "
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// effectKeys returns the keys of g that have this effect; a group whose every key has it is told as a whole.
func effectKeys(g *group, path, effect string) (keys []string) {
	for i := range g.fields {
		f := &g.fields[i]
		below := []string(nil)
		if f.group != nil {
			below = effectKeys(f.group, path+f.key+".", effect)
		}
		switch {
		case f.kept:
		case f.group == nil && f.effect == effect, f.group != nil && len(below) == len(f.group.fields):
			keys = append(keys, path+f.key)
		default:
			keys = append(keys, below...)
		}
	}
	return keys
}

func TestThe_reference_tells_when_a_change_of_each_key_is_in_force(t *testing.T) {
	content, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(content), effectsBegin)
	got, after, ended := strings.Cut(rest, effectsEnd)
	if !begun || !ended {
		t.Fatalf("%s has no table between %q and %q", reference, effectsBegin, effectsEnd)
	}
	want := strings.TrimSuffix(effectsTable(), "\n")
	if *update {
		if err := os.WriteFile(reference, []byte(before+effectsBegin+want+"\n"+effectsEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if strings.TrimSuffix(got, "\n") != want {
		t.Errorf("%s does not say what the tags say (-update writes it anew):\n%s\nwant\n%s", reference, got, want)
	}
}

func TestThe_table_of_effects_leaves_no_key_out(t *testing.T) {
	table := effectsTable()
	for _, key := range []string{"amqp", "listeners.size_limit", "listeners.tls.required", "listeners.routes.match", "drain_timeout", "limits"} {
		if !strings.Contains(table, " "+key+",") && !strings.Contains(table, " "+key+"\n") {
			t.Errorf("%s is not in\n%s", key, table)
		}
	}
}
