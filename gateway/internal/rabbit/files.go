package rabbit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// nodeName is that of every node alone: it is known only to the node's own epmd.
const nodeName = "lsmtpd@localhost"

// complaintLines is how much of a node's output goes into an error.
const complaintLines = 12

// onLoopback keeps Erlang's own connections off the network.
const onLoopback = "-kernel inet_dist_use_interface {127,0,0,1}"

// files is a node's directory, and the environment that sends RabbitMQ's programs there.
type files struct {
	dir  string
	lock *os.File // of a temporary directory; else nil
	env  []string
}

// file is one of those that a node finds at its start.
type file struct {
	name, content string
	mode          os.FileMode
}

func makeFiles(o Options, id identity, ctl string) (*files, error) {
	f := &files{dir: o.Dir}
	var err error
	if o.Dir == "" {
		f.dir, f.lock, err = makeTemp()
	} else if f.dir, err = filepath.Abs(o.Dir); err == nil {
		err = os.MkdirAll(f.dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	own := f.environment(id)
	f.env = append(foreign(os.Environ()), own...)
	config := append([]string{
		fmt.Sprintf("listeners.tcp.default = 127.0.0.1:%d", id.amqp),
		"disk_free_limit.absolute = 10MB",
	}, o.Config...)
	contents := []file{
		{"rabbitmq.conf", strings.Join(config, "\n") + "\n", 0o600},
		{"enabled_plugins", "[].\n", 0o600},
		{"rabbitmq-env.conf", "", 0o600},
		{"ctl", ctlScript(ctl, own), 0o700},
	}
	if id.cookie != "" {
		contents = append(contents, file{".erlang.cookie", id.cookie, 0o400})
	}
	for _, c := range contents {
		if err := os.WriteFile(f.path(c.name), []byte(c.content), c.mode); err != nil {
			f.remove()
			return nil, err
		}
	}
	return f, nil
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

func (f *files) output() string { return f.path("output.log") }

func (f *files) ctl() string { return f.path("ctl") }

func (f *files) remove() {
	if f != nil && f.lock != nil {
		_ = os.RemoveAll(f.dir)
		_ = f.lock.Close()
	}
}

// environment names every file and port that RabbitMQ's scripts would otherwise take from /etc, /var or a default.
func (f *files) environment(id identity) []string {
	return []string{
		"HOME=" + f.dir, // of the Erlang cookie
		"LANG=C.UTF-8",
		"RABBITMQ_NODENAME=" + id.name,
		"RABBITMQ_MNESIA_BASE=" + f.path("data"),
		"RABBITMQ_LOG_BASE=" + f.path("log"),
		"RABBITMQ_PID_FILE=" + f.path("pid"),
		"RABBITMQ_CONFIG_FILE=" + f.path("rabbitmq.conf"),
		"RABBITMQ_CONFIG_FILES=" + f.path("conf.d"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + f.path("advanced.config"),
		"RABBITMQ_CONF_ENV_FILE=" + f.path("rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + f.path("enabled_plugins"),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", id.distribution),
		fmt.Sprintf("ERL_EPMD_PORT=%d", id.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_CRASH_DUMP_SECONDS=0", // none
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" + onLoopback,
		"RABBITMQ_CTL_ERL_ARGS=" + onLoopback,
		// The server's script then becomes the Erlang machine, instead of its parent: the pid is the one to stop and freeze.
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

// foreign is env without what would send RabbitMQ elsewhere.
func foreign(env []string) []string {
	env = slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "RABBITMQ_") || strings.HasPrefix(name, "ERL_") || name == "HOME" || name == "LANG" ||
			name == "NOTIFY_SOCKET" || name == "RUNNING_UNDER_SYSTEMD"
	})
	return append(env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/usr/bin:/sbin:/bin")
}

// ctlScript runs rabbitmqctl in the node's environment.
func ctlScript(ctl string, env []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# rabbitmqctl for the node in this directory, for example: ctl list_queues name messages\n")
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
	}
	fmt.Fprintf(&b, "exec %s \"$@\"\n", quote(ctl))
	return b.String()
}

// quote makes s one word of a shell's.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// complaint is what the server printed that explains its end: the first errors, else the last lines.
func (f *files) complaint() string {
	out, err := os.ReadFile(f.output())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	errors := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.Contains(l, "[error]") })
	if len(errors) > 0 {
		lines = errors[:min(complaintLines, len(errors))]
	} else {
		lines = lines[max(0, len(lines)-complaintLines):]
	}
	if f.lock == nil {
		lines = append(lines, fmt.Sprintf("(more in %s and %s)", f.output(), f.path("log")))
	}
	return strings.Join(lines, "\n")
}
