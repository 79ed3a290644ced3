package spool

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// table finds entries by id. A map would hold each id a second time, which with a million of them is a tenth of what the daemon may
// take. It probes linearly, and needs no hash: ids are random, and lsmtpd's own. The zero table is empty.
type table struct {
	slots []*entry // a power of two of them, at most three quarters used
	n     int
}

const minSlots = 64

// home is where id belongs, in the octets of a v4 uuid that are all random.
func (t *table) home(id uuid.UUID) int {
	return int(binary.LittleEndian.Uint32(id[:]) & uint32(len(t.slots)-1))
}

// find returns the slot of id, or the free one where it would be. The table has a free slot.
func (t *table) find(id uuid.UUID) int {
	i := t.home(id)
	for t.slots[i] != nil && t.slots[i].id != id {
		i = (i + 1) & (len(t.slots) - 1)
	}
	return i
}

// get returns the entry of id; nil where there is none.
func (t *table) get(id uuid.UUID) *entry {
	if t.n == 0 {
		return nil
	}
	return t.slots[t.find(id)]
}

// put adds e, whose id is not there, or is e's.
func (t *table) put(e *entry) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.resize(max(2*len(t.slots), minSlots))
	}
	i := t.find(e.id)
	if t.slots[i] == nil {
		t.n++
	}
	t.slots[i] = e
}

// remove takes e out, and closes the gap: what stood behind it only because of it moves up.
func (t *table) remove(e *entry) {
	mask := len(t.slots) - 1
	gap := t.find(e.id)
	for i := (gap + 1) & mask; t.slots[i] != nil; i = (i + 1) & mask {
		if (i-t.home(t.slots[i].id))&mask >= (i-gap)&mask {
			t.slots[gap], gap = t.slots[i], i
		}
	}
	t.slots[gap] = nil
	t.n--
	if len(t.slots) > minSlots && 8*t.n < len(t.slots) {
		t.resize(len(t.slots) / 2)
	}
}

func (t *table) resize(slots int) {
	old := t.slots
	t.slots = make([]*entry, slots)
	for _, e := range old {
		if e != nil {
			t.slots[t.find(e.id)] = e
		}
	}
}

// each calls f with every entry, in no order.
func (t *table) each(f func(*entry)) {
	for _, e := range t.slots {
		if e != nil {
			f(e)
		}
	}
}
