package rabbit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ProgramVariable names, in the environment, the rabbitmq-server to use instead of the installed one.
const ProgramVariable = "LSMTPD_TEST_RABBITMQ"

// ErrNotInstalled carries the line that installs RabbitMQ.
var ErrNotInstalled = errors.New("rabbitmq-server is not installed: on Debian and Ubuntu type\n" +
	"    sudo apt-get install -y rabbitmq-server\n" +
	"elsewhere see https://www.rabbitmq.com/docs/download, and name its rabbitmq-server in " + ProgramVariable + " if it is not in PATH")

// debianServer is the server itself; what Debian puts into PATH in front of it insists on a user and a directory of its own.
const debianServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// programs are the absolute paths of what a node consists of.
type programs struct{ server, ctl, epmd string }

// Installed tells whether this machine has what Start needs: nil, ErrNotInstalled, or what else is wrong.
func Installed() error {
	_, err := findPrograms()
	return err
}

func findPrograms() (programs, error) {
	server, err := findServer()
	if err != nil {
		return programs{}, err
	}
	p := programs{server: server, ctl: filepath.Join(filepath.Dir(server), "rabbitmqctl")}
	if _, err := os.Stat(p.ctl); err != nil {
		return programs{}, fmt.Errorf("no rabbitmqctl beside %s: %w", server, err)
	}
	if p.epmd, err = findEpmd(filepath.Dir(server)); err != nil {
		return programs{}, err
	}
	return p, nil
}

func findServer() (string, error) {
	if named := os.Getenv(ProgramVariable); named != "" {
		if _, err := os.Stat(named); err != nil {
			return "", fmt.Errorf("%s: %w", ProgramVariable, err)
		}
		return filepath.Abs(named)
	}
	if _, err := os.Stat(debianServer); err == nil {
		return debianServer, nil
	}
	if found, err := exec.LookPath("rabbitmq-server"); err == nil {
		return filepath.Abs(found)
	}
	return "", ErrNotInstalled
}

// findEpmd looks beside the server, in PATH, then where Erlang keeps it if only erl is linked from there.
func findEpmd(beside string) (string, error) {
	if found := filepath.Join(beside, "epmd"); isFile(found) {
		return found, nil
	}
	if found, err := exec.LookPath("epmd"); err == nil {
		return filepath.Abs(found)
	}
	if erl, err := exec.LookPath("erl"); err == nil {
		if erl, err = filepath.EvalSymlinks(erl); err == nil {
			found, _ := filepath.Glob(filepath.Join(filepath.Dir(erl), "..", "erts-*", "bin", "epmd"))
			if len(found) > 0 {
				return found[0], nil
			}
		}
	}
	return "", errors.New("no epmd in PATH: Erlang is not installed as RabbitMQ needs it")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
