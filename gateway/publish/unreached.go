package publish

import (
	"maps"
	"slices"
	"time"
)

// UnreachedStatus is a URL that was tried in vain before the one in use answered.
type UnreachedStatus struct {
	Error string    `json:"error"` // the same text each time
	Tried time.Time `json:"tried"` // the last time
}

// passOver notes what the URLs before l's met, and logs each once until that changes or it answers: nobody else tells of a node that
// is gone as long as another answers. The caller holds mu.
func (p *Publisher) passOver(l *link) {
	delete(p.unreached, l.url)
	for _, u := range l.passed {
		now := UnreachedStatus{u.Err.Error(), time.Now()}
		before := p.unreached[u.URL]
		p.unreached[u.URL] = now
		const passed = "broker passed over: another one of amqp.urls answers"
		switch {
		case before.Error == now.Error:
		case lasting(u.Err) != "":
			p.log.Error(passed, "broker", l.broker, "error", u.Err)
		default:
			p.log.Warn(passed, "broker", l.broker, "error", u.Err)
		}
	}
}

// notReached returns the URLs that were passed over, in their order; without a connection its own error tells of them.
func (p *Publisher) notReached() (all []UnreachedStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live.link == nil {
		return nil
	}
	for _, url := range slices.Sorted(maps.Keys(p.unreached)) {
		all = append(all, p.unreached[url])
	}
	return all
}
