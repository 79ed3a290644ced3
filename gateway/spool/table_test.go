package spool

import (
	"encoding/binary"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestTable_knows_what_a_map_knows(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var got table
		want := map[uuid.UUID]*entry{}
		// Few homes, so that they crowd at the end of the slots and around it.
		ids := rapid.Custom(func(r *rapid.T) uuid.UUID {
			var id uuid.UUID
			binary.LittleEndian.PutUint32(id[:], uint32(rapid.SampledFrom([]int{0, 1, minSlots - 2, minSlots - 1, 2*minSlots - 1}).Draw(r, "home")))
			id[15] = rapid.Byte().Draw(r, "rest")
			return id
		})
		for range rapid.IntRange(1, 400).Draw(r, "steps") {
			id := ids.Draw(r, "id")
			if e := want[id]; e != nil && rapid.Bool().Draw(r, "removed") {
				got.remove(e)
				delete(want, id)
			} else if e == nil {
				want[id] = &entry{id: id}
				got.put(want[id])
			}
			if got.get(id) != want[id] || got.n != len(want) {
				r.Fatalf("%s: got %v of %d, want %v of %d", id, got.get(id), got.n, want[id], len(want))
			}
		}
		for id, e := range want {
			if got.get(id) != e {
				r.Fatalf("%s is not found any more", id)
			}
		}
		n := 0
		got.each(func(e *entry) {
			if n++; want[e.id] != e {
				r.Fatalf("each returned %s", e.id)
			}
		})
		if n != len(want) {
			r.Fatalf("each returned %d of %d", n, len(want))
		}
	})
}

func TestTable_gives_room_back(t *testing.T) {
	var table table
	var all []*entry
	for range 10_000 {
		e := &entry{id: uuid.New()}
		table.put(e)
		all = append(all, e)
	}
	for _, e := range all {
		table.remove(e)
	}
	if len(table.slots) > minSlots || table.n != 0 {
		t.Errorf("%d slots for %d entries", len(table.slots), table.n)
	}
}
