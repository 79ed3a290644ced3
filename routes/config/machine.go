package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lsmtpd/routes/address"
)

// machineDefaults fills in the defaults that the machine and the environment give.
func (c *Config) machineDefaults() {
	if c.Hostname == "" {
		c.Hostname = machineName()
	}
	if c.Spool.Dir == "" {
		c.Spool.Dir = "/tmp/lsmtp"
		if dir := firstDirectory("STATE_DIRECTORY"); dir != "" {
			c.Spool.Dir = filepath.Join(dir, "spool")
		}
	}
	if c.Admin.Socket == "" && !c.marks.own("admin.socket") {
		c.Admin.SocketIsDefault = true
		c.Admin.Socket = DefaultSocket()
		if len(c.Admin.Socket) > maxSocketPath {
			c.Warnings = append(c.Warnings, Fault{
				Place: Place{File: c.Path}, Key: "admin.socket",
				Message: "the default " + quote(c.Admin.Socket) + " is over 107 octets, more than the path of a socket can have: name a shorter one",
			})
			c.Admin.Socket = ""
		}
	}
}

// machineName returns the host's name as the greeting can say it.
func machineName() string {
	name, err := os.Hostname()
	if err == nil {
		name, err = address.ParseDomain(name)
	}
	if err != nil {
		return "localhost"
	}
	return name
}

// DefaultSocket returns where the admin socket is unless the configuration says: in systemd's runtime directory, root's, the
// user's, or one of its own below /tmp.
func DefaultSocket() string {
	const name = "admin.sock"
	if dir := firstDirectory("RUNTIME_DIRECTORY"); dir != "" {
		return filepath.Join(dir, name)
	}
	if os.Geteuid() == 0 {
		return filepath.Join("/run/lsmtpd", name)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lsmtpd", name)
	}
	return filepath.Join("/tmp", "lsmtpd-"+strconv.Itoa(os.Geteuid()), name)
}

// firstDirectory returns the first of the directories that systemd names in a variable, separated by colons.
func firstDirectory(variable string) string {
	dir, _, _ := strings.Cut(os.Getenv(variable), ":")
	if !filepath.IsAbs(dir) {
		return ""
	}
	return dir
}
