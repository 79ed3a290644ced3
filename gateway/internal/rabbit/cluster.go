package rabbit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/tether"
)

// Cluster is nodes that share their exchanges and queues. Each can be killed, frozen and started again, as a Node alone can.
type Cluster struct {
	Nodes []*Node
	epmd  *tether.Process // of all: a node finds the others by it, also after one of them was killed
}

// NewCluster starts size nodes for t alone, which are gone when t ends: the first, then those that join it. It takes ten
// seconds a node on two idle cores.
func NewCluster(t testing.TB, size int) *Cluster {
	t.Helper()
	c := &Cluster{}
	t.Cleanup(c.close)
	if err := c.start(t.Context(), size); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Cluster) start(ctx context.Context, size int) error {
	if err := c.prepare(size); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	first := c.Nodes[0]
	var err error
	if c.epmd, err = first.startEpmd(ctx); err != nil {
		return err
	}
	if err := first.Start(ctx); err != nil {
		return err
	}
	faults := make([]error, size)
	var joining sync.WaitGroup
	for i, n := range c.Nodes[1:] {
		joining.Go(func() { faults[i] = n.Start(ctx) })
	}
	joining.Wait()
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	_, err = first.Ctl(ctx, "await_online_nodes", fmt.Sprint(size))
	return err
}

// prepare makes the nodes' files. The first looks for nobody (4.0 would wait for those it looks for), and each other for the first.
func (c *Cluster) prepare(size int) error {
	epmd, err := faultnet.Port()
	if err != nil {
		return err
	}
	cookie := uuid.NewString()
	const first = "lsmtpd1@localhost"
	for i := range size {
		id := identity{name: first, cookie: cookie, ports: ports{epmd: epmd}}
		var o Options
		if i > 0 {
			id.name = fmt.Sprintf("lsmtpd%d@localhost", i+1)
			o.Config = []string{
				"cluster_formation.peer_discovery_backend = classic_config",
				"cluster_formation.classic_config.nodes.1 = " + first,
				"cluster_formation.classic_config.nodes.2 = " + id.name,
			}
		}
		n, err := newNode(o, id)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, n)
	}
	return nil
}

func (c *Cluster) close() {
	for _, n := range c.Nodes {
		n.Close()
	}
	if c.epmd != nil {
		c.epmd.Kill()
	}
}

// URLs are those of all nodes.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		urls[i] = n.URL()
	}
	return urls
}

// Running are the nodes that run.
func (c *Cluster) Running() []*Node {
	var running []*Node
	for _, n := range c.Nodes {
		if n.Done() != nil {
			running = append(running, n)
		}
	}
	return running
}

// Leader is the node that leads the quorum queue q.
func (c *Cluster) Leader(ctx context.Context, q *Inbox) (*Node, error) {
	running := c.Running()
	if len(running) == 0 {
		return nil, errors.New("no node of the cluster runs")
	}
	out, err := running[0].Ctl(ctx, "list_queues", "name", "leader", "--no-table-headers")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[0] != q.Name {
			continue
		}
		for _, n := range c.Nodes {
			if n.identity.name == fields[1] {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("nobody leads %s: %s", q.Name, out)
}
