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
	pathHistory = "/v1/history" // GET: []reload.Report, the newest last
	pathTail    = "/v1/tail"    // GET: a gateway.Copy a line, without end
)

// Status is the daemon and its configuration.
type Status struct {
	gateway.Status
	Config reload.Status `json:"config"`
}
