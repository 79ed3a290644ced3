// Package admin is the operator's way into the running daemon: an HTTP API on a Unix socket, both of its ends and the types
// that travel between them. It opens no socket: the gateway serves its handler.
package admin

import (
	"lsmtpd/gateway"
	"lsmtpd/routes/reload"
)

// The paths of the API.
const (
	pathStatus  = "/v1/status"  // GET: Status
	pathReload  = "/v1/reload"  // POST: reload.Report
	pathProbe   = "/v1/probe"   // POST: []string, what the broker says of the exchanges; where it is away it is tried at once
	pathHistory = "/v1/history" // GET: []reload.Report, the newest last
	pathTail    = "/v1/tail"    // GET: a gateway.Copy a line, without end

	pathSpool       = "/v1/spool"        // GET: a line[spool.Entry] for each mail; the query is a gateway.Filter
	pathSpoolBad    = "/v1/spool/bad"    // GET: a line[spool.BadEntry] for each file that was put aside
	pathSpoolMail   = "/v1/spool/mail/"  // GET, with an id behind it: gateway.SpooledMail
	pathSpoolReplay = "/v1/spool/replay" // POST, the body an id a line, the query perhaps exchange and key: a line[gateway.Outcome] for each
	pathSpoolRemove = "/v1/spool/remove" // POST, the body an id a line: a line[gateway.Outcome] for each
	pathSpoolStop   = "/v1/spool/stop/"  // POST, with the call of one of the two behind it: it begins no more, and ends with what it has begun
)

// Status is the daemon and its configuration.
type Status struct {
	gateway.Status
	Config reload.Status `json:"config"`
}

// line is one of an answer that has many. One with an Error is the last.
type line[T any] struct {
	Value *T     `json:"value,omitempty"`
	Error string `json:"error,omitempty"`
}
