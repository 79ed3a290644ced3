package gateway

import (
	"cmp"
	"os"
	"runtime/metrics"
	"slices"
	"time"

	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/spool"
)

// Status is the daemon as an operator sees it.
type Status struct {
	Version   string           `json:"version"`
	Started   time.Time        `json:"started"`
	Listeners []ListenerStatus `json:"listeners"` // in the file's order
	Draining  []DrainingStatus `json:"draining,omitempty"`
	Admin     string           `json:"admin_unreachable,omitempty"` // why nobody can connect to the admin socket by its path
	Broker    publish.Status   `json:"broker"`
	Spools    []spool.Status   `json:"spools"` // the one in use first; others are replayed until they are empty
	Limits    LimitsStatus     `json:"limits"`
	Process   ProcessStatus    `json:"process"`
}

// LimitsStatus is how much of the process's limits is in use; 0 is no limit.
type LimitsStatus struct {
	Connections    int   `json:"connections"` // sessions that were let in
	MaxConnections int   `json:"max_connections"`
	Memory         int64 `json:"memory_octets"` // of mail held now
	MaxMemory      int64 `json:"max_memory_octets"`
}

// ProcessStatus is what the process needs of its machine.
type ProcessStatus struct {
	PID         int    `json:"pid"`
	Goroutines  uint64 `json:"goroutines"`
	Heap        uint64 `json:"heap_octets"` // that the last garbage collection left
	Descriptors int    `json:"descriptors"` // open; 0 where the system does not tell
}

func process() ProcessStatus {
	figures := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(figures)
	open, _ := os.ReadDir("/proc/self/fd")
	return ProcessStatus{os.Getpid(), figures[0].Value.Uint64(), figures[1].Value.Uint64(), len(open)}
}

// ListenerStatus is one listener. Its counts go on across reloads as long as its name stays.
type ListenerStatus struct {
	Name             string     `json:"name"`
	Address          string     `json:"address"`
	Bound            string     `json:"bound"`                 // with the port in use where the address says 0
	Unreachable      string     `json:"unreachable,omitempty"` // why nobody can connect, where that is known: the file of a Unix socket
	Sessions         int64      `json:"sessions"`
	Accepted         uint64     `json:"accepted"`                        // messages
	Confirmed        uint64     `json:"confirmed"`                       // deliveries
	Spooled          uint64     `json:"spooled"`                         // deliveries
	Refused          uint64     `json:"refused"`                         // replies of class 4 and 5
	Memory           int64      `json:"memory_octets"`                   // of mail held now
	Partly           uint64     `json:"refused_partly_confirmed"`        // messages of which a part was confirmed, and the rest could not be spooled
	Injections       uint64     `json:"starttls_injection"`              // sessions that were cut for plaintext behind STARTTLS
	CertificateUntil *time.Time `json:"certificate_not_after,omitempty"` // when the first of its certificates ends
}

// DrainingStatus is the sessions that a removed listener still has.
type DrainingStatus struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Sessions int    `json:"sessions"`
}

// draining counts the sessions whose address is gone, by the listener that they came to.
func (g *Gateway) draining(now *running) []DrainingStatus {
	counts := map[DrainingStatus]int{}
	for _, s := range g.sessions.all() {
		if now.listeners[s.address] == nil && s.listener != nil {
			counts[DrainingStatus{Name: s.listener.Name, Address: s.address}]++
		}
	}
	all := make([]DrainingStatus, 0, len(counts))
	for d, n := range counts {
		d.Sessions = n
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b DrainingStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return all
}

// Status returns the present state. Apply must have been called.
func (g *Gateway) Status() Status {
	s := Status{Version: g.version, Started: g.started, Broker: g.publisher.Status(), Spools: g.store.status(), Process: process()}
	bound, lost, sessions := g.sockets.Addresses(), g.sockets.Unreachable(), g.sessions.byAddress()
	running := g.running.Load()
	s.Limits = LimitsStatus{g.limits.connections(), running.most, g.memory.Used(), running.table.Config.Limits.Memory}
	s.Draining = g.draining(running)
	s.Admin = g.admin.unreachable()
	for _, t := range running.table.Listeners {
		l := running.listeners[t.Address]
		status := ListenerStatus{
			Name: l.Name, Address: l.Address, Bound: bound[l.Address],
			Sessions: sessions[l.Address], Accepted: l.state.accepted.Load(),
			Confirmed: l.state.confirmed.Load(), Spooled: l.state.spooled.Load(), Refused: l.state.refused.Load(), Partly: l.state.partly.Load(),
			Memory:     l.state.memory.Used(),
			Injections: l.state.injections.Load(), CertificateUntil: certificateUntil(l.TLS),
		}
		if err := lost[l.Address]; err != nil {
			status.Unreachable = err.Error()
		}
		s.Listeners = append(s.Listeners, status)
	}
	return s
}
