package routes

import (
	"maps"

	"lsmtpd/routes/address"
)

// Group adds to to the batch of d, or a new batch at the end, and tells which one. The batches returned share what b holds.
func Group(b []Batch, d Destination, to address.Address) (all []Batch, at int) {
	for i := range b {
		if b[i].Destination.equal(&d) {
			b[i].Recipients = append(b[i].Recipients, to)
			return b, i
		}
	}
	return append(b, Batch{Destination: d, Recipients: []address.Address{to}}), len(b)
}

// equal tells whether mail to d and o can travel together.
func (d *Destination) equal(o *Destination) bool {
	return d.RoutingKey == o.RoutingKey && d.Exchange == o.Exchange && d.Format == o.Format && maps.Equal(d.Headers, o.Headers)
}
