package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

func TestA_hash_is_that_of_the_first_line_without_its_end(t *testing.T) {
	for input, password := range map[string]string{
		"hunter2\nmore\n":              "hunter2",
		"hunter2\r\nmore":              "hunter2",
		"hunter2":                      "hunter2",
		" two words \t\n":              " two words \t",
		"naïve\n":                      "naïve",
		strings.Repeat("x", 72) + "\n": strings.Repeat("x", 72),
	} {
		var out, errs bytes.Buffer
		p := &program{stdin: strings.NewReader(input), stdout: &out, stderr: &errs}
		if status := p.dispatch([]string{"passwd", "-u", "ann", "--cost", "4"}); status != exitDone || errs.Len() > 0 {
			t.Errorf("%q: exit status %d, stderr %q", input, status, errs.String())
			continue
		}
		hash, ok := strings.CutPrefix(strings.TrimSuffix(out.String(), "\n"), "ann:")
		if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); !ok || err != nil {
			t.Errorf("%q: printed %q, %v", input, out.String(), err)
		}
	}
}

// pseudoterminal returns both ends of a new one: what a person has before him, and what a program does.
func pseudoterminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudoterminals here: ", err)
	}
	t.Cleanup(func() { person.Close() })
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// echoes tells whether a terminal shows what is typed.
func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

func TestWhat_is_typed_is_not_shown_until_the_password_is_there_or_a_signal_ends_the_command(t *testing.T) {
	for _, signal := range []os.Signal{nil, os.Interrupt, unix.SIGTERM} {
		person, terminal := pseudoterminal(t)
		cmd := exec.Command(os.Args[0], "passwd", "--cost", "4")
		cmd.Args[0] = "lsmtpd" // that is what testscript's main looks at
		cmd.Stdin = terminal
		var out bytes.Buffer
		cmd.Stdout = &out
		prompts, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		said := bufio.NewReader(prompts)
		hidden := func() {
			t.Helper()
			for deadline := time.Now().Add(time.Minute); echoes(t, terminal); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the terminal shows what is typed")
				}
			}
		}
		await := func(prompt string) {
			t.Helper()
			if got, err := said.ReadString(':'); err != nil || strings.TrimSpace(got) != prompt {
				t.Fatalf("%v: the prompt is %q, %v", signal, got, err)
			}
		}
		await("Password:")
		hidden()
		if signal != nil {
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Errorf("%v: it ended well", signal)
			}
		} else {
			fmt.Fprint(person, "hunter2\n")
			await("Again:")
			hidden()
			fmt.Fprint(person, "hunter2\n")
			if err := cmd.Wait(); err != nil || bcrypt.CompareHashAndPassword(bytes.TrimSpace(out.Bytes()), []byte("hunter2")) != nil {
				t.Errorf("%v, %q", err, out.String())
			}
		}
		if !echoes(t, terminal) {
			t.Errorf("after %v the terminal still hides what is typed", signal)
		}
	}
}
