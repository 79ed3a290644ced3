package routes

import (
	"maps"

	"lsmtpd/routes/address"
)

// Group adds to to the batch of d, or a new batch at the end. The batches returned share what b holds.
func Group(b []Batch, d Destination, to address.Address) []Batch {
	for i := range b {
		if b[i].Destination.equal(&d) {
			b[i].Recipients = append(b[i].Recipients, to)
			return b
		}
	}
	return append(b, Batch{Destination: d, Recipients: []address.Address{to}})
}

// equal tells whether mail to d and o can travel together.
func (d *Destination) equal(o *Destination) bool {
	return d.RoutingKey == o.RoutingKey && d.Exchange == o.Exchange && d.Format == o.Format && maps.Equal(d.Headers, o.Headers)
}
