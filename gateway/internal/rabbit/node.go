// Package rabbit runs private RabbitMQ nodes on 127.0.0.1: to be killed, frozen and alarmed by tests, and to be mailed to by
// `make run`. It knows RabbitMQ's programs and files, and nothing of lsmtpd.
package rabbit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/tether"
)

const (
	startTimeout = 2 * time.Minute // 5 s on two idle cores, ten times that on busy ones
	stopTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// errForeign is what a Node answers that stands for a broker of somebody else's.
var errForeign = errors.New("this RabbitMQ was not started by this process")

// Options say how a node differs from an empty one that nobody else knows of.
type Options struct {
	Port   int      // of AMQP on 127.0.0.1; 0 is a free one
	Dir    string   // data, log and configuration, kept by Close; "" is a temporary one, removed by Close
	Config []string // more lines of rabbitmq.conf
}

// Node is a RabbitMQ node that can be started again, on the same port and the same data, after it was stopped or killed.
// It cannot outlive this process.
type Node struct {
	url      string
	files    *files
	programs programs
	identity identity

	mu     sync.RWMutex    // held for reading while a command runs: the node does not go away under it
	epmd   *tether.Process // nil: not running, or the cluster's
	server *tether.Process // nil: not running
}

// identity is how a node is known to Erlang.
type identity struct {
	name   string // part of what the data is kept under
	cookie string // a cluster's, which has an epmd of its own; "" is a node alone, with a cookie that Erlang makes
	ports
}

// ports are a node's own, but for a cluster's epmd: no node meets another, nor the machine's.
type ports struct{ amqp, distribution, epmd int }

// Start starts a node and waits until it takes AMQP connections, for two minutes at most. Its error is ErrNotInstalled where
// there is no RabbitMQ on this machine.
func Start(ctx context.Context, o Options) (*Node, error) {
	n, err := newNode(o, identity{name: nodeName})
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// newNode is a node that does not run yet. It needs to be closed.
func newNode(o Options, id identity) (*Node, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	id.amqp = o.Port
	if err := id.fill(); err != nil {
		return nil, err
	}
	n := &Node{programs: programs, identity: id, url: fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", id.amqp)}
	if n.files, err = makeFiles(o, id, programs.ctl); err != nil {
		return nil, fmt.Errorf("files of a RabbitMQ node: %w", err)
	}
	return n, nil
}

func (p *ports) fill() (err error) {
	for _, port := range []*int{&p.amqp, &p.distribution, &p.epmd} {
		if *port != 0 {
			continue
		}
		if *port, err = faultnet.Port(); err != nil {
			return err
		}
	}
	return nil
}

// URL is where the node takes AMQP, with a user who may do everything.
func (n *Node) URL() string { return n.url }

// Addr is the host:port of URL.
func (n *Node) Addr() string {
	u, err := amqp.ParseURI(n.url)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(u.Host, fmt.Sprint(u.Port))
}

// CtlPath is a script that runs rabbitmqctl on this node, for people. A broker of somebody else's has none.
func (n *Node) CtlPath() string {
	if n.files == nil {
		return ""
	}
	return n.files.ctl()
}

// Start starts a node that was stopped or killed, and waits until it takes AMQP connections.
func (n *Node) Start(ctx context.Context) error {
	if n.files == nil {
		return errForeign
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		return errors.New("RabbitMQ runs already")
	}
	var err error
	if n.identity.cookie == "" {
		n.epmd, err = n.startEpmd(ctx)
	}
	if err == nil {
		err = n.startServer(ctx)
	}
	if err != nil {
		n.end()
	}
	return err
}

// startEpmd starts the Erlang port mapper before the server does: the one that the server would start outlives it.
func (n *Node) startEpmd(ctx context.Context) (*tether.Process, error) {
	port := n.identity.epmd
	cmd := exec.Command(n.programs.epmd, "-port", fmt.Sprint(port), "-address", "127.0.0.1")
	cmd.Dir, cmd.Env = n.files.dir, n.files.env
	epmd, err := tether.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start epmd: %w", err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	return epmd, await(ctx, epmd, "epmd", func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func (n *Node) startServer(ctx context.Context) error {
	if err := portIsFree(n.identity.amqp); err != nil {
		return err
	}
	output, err := os.Create(n.files.output())
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(n.programs.server)
	cmd.Dir, cmd.Env = n.files.dir, n.files.env
	cmd.Stdout, cmd.Stderr = output, output
	if n.server, err = tether.Start(cmd); err != nil {
		return fmt.Errorf("start RabbitMQ: %w", err)
	}
	err = await(ctx, n.server, "RabbitMQ", func() error {
		c, err := amqp.DialConfig(n.url, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, n.files.complaint())
	}
	return nil
}

// await tries until try succeeds; not longer than p lives.
func await(ctx context.Context, p *tether.Process, name string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended at its start, exit status %d", name, p.ExitCode())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)", name, err, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

func portIsFree(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return fmt.Errorf("something else holds port %d: %w", port, err)
	}
	return l.Close()
}

// Stop stops the node in good order: what it holds is on disk. It is killed if that takes longer than 30 s.
func (n *Node) Stop() error {
	return n.finish(func(p *tether.Process) error {
		select {
		case <-p.Done():
			return errors.New("RabbitMQ had ended by itself")
		default:
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop RabbitMQ: %w", err)
		}
		select {
		case <-p.Done():
			return nil
		case <-time.After(stopTimeout):
			return fmt.Errorf("RabbitMQ did not stop within %v and was killed", stopTimeout)
		}
	})
}

// Done is closed when the node that runs now has ended, by whatever. On a broker that was not started here it is nil.
func (n *Node) Done() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return nil
	}
	return n.server.Done()
}

// Kill ends the node at once, as a power failure would. It need not be thawed.
func (n *Node) Kill() error {
	return n.finish(func(*tether.Process) error { return nil })
}

func (n *Node) finish(how func(*tether.Process) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.running(); err != nil {
		return err
	}
	defer n.end()
	return how(n.server)
}

// end ends what is left of the node. n.mu is held.
func (n *Node) end() {
	for _, p := range []**tether.Process{&n.server, &n.epmd} {
		if *p != nil {
			(*p).Kill()
			*p = nil
		}
	}
}

func (n *Node) running() error {
	if n.files == nil {
		return errForeign
	}
	if n.server == nil {
		return errors.New("RabbitMQ does not run")
	}
	return nil
}

// Close kills the node if it runs, and removes its directory if that is a temporary one.
func (n *Node) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.end()
	n.files.remove()
}

// Freeze stops the node's clock: its connections stay open, and say nothing. It returns when the last thread has stopped: the
// kernel stops one after the other.
func (n *Node) Freeze() error {
	if err := n.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	for deadline := time.Now().Add(freezePatience); !stopped(n.server.Pid()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not stop", n.server.Pid())
		}
	}
	return nil
}

// freezePatience is how long the threads of a node may take to stop.
const freezePatience = 10 * time.Second

// stopped tells whether every thread of a process has stopped (proc_pid_stat(5)).
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		_, state, _ := strings.Cut(string(stat), ") ") // the name before it may hold anything
		if err == nil && !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

// Thaw ends Freeze.
func (n *Node) Thaw() error { return n.signal(syscall.SIGCONT) }

// signal goes to the Erlang machine alone: stopped with it, the leash could not kill.
func (n *Node) signal(s os.Signal) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.running(); err != nil {
		return err
	}
	return n.server.Signal(s)
}

// Alarm raises the memory alarm, under which the broker reads nothing from connections that publish, or ends it.
func (n *Node) Alarm(ctx context.Context, on bool) error {
	watermark := "0.4"
	if on {
		watermark = "0"
	}
	_, err := n.Ctl(ctx, "set_vm_memory_high_watermark", watermark)
	return err
}

// Ctl runs rabbitmqctl on the node, which takes about a second, and returns what it prints.
func (n *Node) Ctl(ctx context.Context, args ...string) (string, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.running(); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, n.programs.ctl, append([]string{"--quiet"}, args...)...)
	cmd.Dir, cmd.Env = n.files.dir, n.files.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(n.programs.ctl), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
