package main

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lsmtpd": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"await": await,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
			for _, name := range []string{"PORT", "PORT2", "SILENT"} {
				port, err := faultnet.Port()
				if err != nil {
					return err
				}
				env.Setenv(name, strconv.Itoa(port))
			}
			return nil
		},
	})
}

// exits runs a command and demands its exit status: exits 78 lsmtpd check.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARGUMENT...]")
	}
	got := 0
	var failed *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &failed):
		got = failed.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// await waits until somebody listens: await 127.0.0.1:25.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await HOST:PORT")
	}
	conn, err := dialUntilUp(args[0])
	if err != nil {
		ts.Fatalf("nobody listens: %v", err)
	}
	conn.Close()
}

// dialUntilUp connects as soon as somebody listens.
func dialUntilUp(address string) (net.Conn, error) {
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(10 * time.Millisecond) // between two looks at the condition
	}
}
