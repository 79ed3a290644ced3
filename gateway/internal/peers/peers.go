// Package peers brings other projects' SMTP clients to a test: Debian's packages, unpacked beside the system and never installed,
// since some of them exclude each other. It does not know what they are asked to send.
package peers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Wanted is the environment variable that asks for the tests with peers.
const Wanted = "LSMTPD_PEERS"

// patience is how long a peer may take before the test fails.
const patience = 2 * time.Minute

// packages are those of Debian, each with what of its dependencies a machine with RabbitMQ and perl does not have.
var packages = []string{
	"swaks", "libnet-ssleay-perl",
	"postfix",
	"exim4-daemon-light", "exim4-base", "libidn12", "libgnutls-dane0", "libnss-wrapper",
}

// Skip skips t where peers are not wanted.
func Skip(t testing.TB) {
	t.Helper()
	if os.Getenv(Wanted) == "" {
		t.Skip("it downloads other projects' clients: make interop")
	}
}

// Swaks returns a command of the Swiss Army Knife for SMTP.
func Swaks(t testing.TB, args ...string) *exec.Cmd { return command(t, "usr/bin/swaks", args) }

// SMTPSource returns a command of Postfix's load generator.
func SMTPSource(t testing.TB, args ...string) *exec.Cmd {
	return command(t, "usr/sbin/smtp-source", args)
}

// Exim returns a command of Exim's that takes one mail from its standard input and hands it to the server at addr at once, in
// chunks where that is offered. It needs root, as Exim does for a configuration of one's own.
func Exim(t testing.TB, addr string, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("Exim reads another configuration than the system's for root only")
	}
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		must(t, os.Chmod(d, 0o755))
	}
	spool := filepath.Join(dir, "spool")
	must(t, os.Mkdir(spool, 0o750))
	must(t, os.Chown(spool, eximID, eximID))
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	passwd := write("passwd", fmt.Sprintf("root:x:0:0::/root:/bin/sh\nDebian-exim:x:%d:%d::/nonexistent:/bin/false\nnobody:x:65534:65534::/nonexistent:/bin/false\n", eximID, eximID))
	group := write("group", fmt.Sprintf("root:x:0:\nDebian-exim:x:%d:\nnogroup:x:65534:\n", eximID))
	host, port, _ := strings.Cut(addr, ":")
	c := command(t, eximPath, nil)
	root := strings.TrimSuffix(c.Path, eximPath)
	// Exim runs itself again, without the environment that it needs here: by this script it always has it.
	script := write("exim", strings.Join([]string{
		"#!/bin/sh",
		"export LD_LIBRARY_PATH=" + strings.Join(libraries(root), ":"),
		"export LD_PRELOAD=" + filepath.Join(libraries(root)[0], "libnss_wrapper.so"),
		"export NSS_WRAPPER_PASSWD=" + passwd + " NSS_WRAPPER_GROUP=" + group,
		"exec " + c.Path + ` "$@"`, "",
	}, "\n"))
	must(t, os.Chmod(script, 0o755))
	conf := write("exim.conf", strings.NewReplacer("{spool}", spool, "{exim}", script, "{host}", host, "{port}", port).Replace(eximConf))
	c.Path, c.Args = script, append([]string{script, "-C", conf, "-odf", "-v"}, args...)
	return c
}

const eximPath = "usr/sbin/exim4"

// eximID is the user and the group that Exim is told to be, which no system need know.
const eximID = 65533

const eximConf = `
exim_path = {exim}
spool_directory = {spool}
log_file_path = {spool}/%slog
primary_hostname = exim.example
keep_environment =
deliver_drop_privilege = true
begin routers
all:
  driver = manualroute
  route_list = * {host}::{port} byname
  self = send
  transport = remote
begin transports
remote:
  driver = smtp
  hosts_try_chunking = *
  hosts_avoid_tls = *
begin retry
* * F,1m,1m
`

// command returns a command of the unpacked packages, which is killed when t ends or it takes too long.
func command(t testing.TB, program string, args []string) *exec.Cmd {
	t.Helper()
	root, err := unpacked()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, filepath.Join(root, program), args...)
	perl, _ := filepath.Glob(filepath.Join(root, "usr/lib/*/perl5/*"))
	c.Env = append(os.Environ(),
		"LD_LIBRARY_PATH="+strings.Join(libraries(root), ":"),
		"PERL5LIB="+strings.Join(append(perl, filepath.Join(root, "usr/share/perl5")), ":"))
	return c
}

// libraries are the directories that hold the packages' shared libraries.
func libraries(root string) []string {
	dirs, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	return append(dirs, filepath.Join(root, "usr/lib/postfix"))
}

// unpacked downloads and unpacks the packages, once for each user, and returns where they are.
var unpacked = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if os.Geteuid() == 0 {
		cache, err = "/var/cache", nil // where Exim can be reached by the user that it becomes
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.Join(packages, " ")))
	root := filepath.Join(cache, "lsmtpd", "peers-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(root), "peers")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := unpack(fresh); err != nil {
		return "", err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	return root, os.Rename(fresh, root)
})

func unpack(root string) error {
	get := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
	get.Dir = root
	if text, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("download %v: %w\n%s", packages, err, text)
	}
	archives, err := filepath.Glob(filepath.Join(root, "*.deb"))
	if err == nil && len(archives) == 0 {
		err = errors.New("apt-get brought nothing")
	}
	if err != nil {
		return err
	}
	for _, a := range archives {
		if text, err := exec.Command("dpkg", "-x", a, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", a, err, text)
		}
		if err := os.Remove(a); err != nil {
			return err
		}
	}
	// As it comes it is root's whoever runs it, and such a program heeds no LD_LIBRARY_PATH.
	return os.Chmod(filepath.Join(root, eximPath), 0o755)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
