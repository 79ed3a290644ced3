package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"lsmtpd/routes/config"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/term"
)

const passwdHelp = `usage: lsmtpd passwd [-u NAME] [--cost NUMBER]

Makes the hash of a password, as auth.users and auth.users_file want it. On a
terminal it asks for the password twice and does not show it; otherwise the
password is the first line of standard input.

flags:
{flags}

Each step of the cost doubles the work of every login, and of who guesses.

exit status: 0 done, 1 the password cannot be used, 2 wrong usage

examples:
  lsmtpd passwd
  lsmtpd passwd -u app >> /etc/lsmtpd/users
`

// maxPassword is how many octets of a password bcrypt reads; the rest would count for nothing.
const maxPassword = 72

func runPasswd(p *program, args []string) int {
	f := p.flags("passwd", passwdHelp)
	user := f.String("u", "", "print NAME:hash, a line of users_file, for the user `NAME`")
	cost := f.Int("cost", bcrypt.DefaultCost, fmt.Sprintf("the cost, a `NUMBER` from %d to %d", config.MinCost, config.MaxCost))
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	if *cost < config.MinCost || *cost > config.MaxCost {
		return f.refuse(fmt.Errorf("--cost %d: it is from %d to %d", *cost, config.MinCost, config.MaxCost))
	}
	if wrong := config.WrongUser(*user); f.given("u") && wrong != "" {
		return f.refuse(fmt.Errorf("-u %q %s", *user, wrong))
	}
	password, err := p.password()
	if err == nil {
		err = unusable(password)
	}
	if err != nil {
		return f.failed(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), *cost)
	if err != nil {
		return f.failed(err)
	}
	if *user != "" {
		fmt.Fprint(p.stdout, *user, ":")
	}
	fmt.Fprintf(p.stdout, "%s\n", hash)
	return exitDone
}

// unusable tells why nobody could log in with password, or not with that one alone.
func unusable(password string) error {
	switch {
	case password == "":
		return errors.New("the password is empty")
	case len(password) > maxPassword:
		return fmt.Errorf("the password has over %d octets, more than bcrypt reads", maxPassword)
	case strings.IndexByte(password, 0) >= 0:
		return errors.New("the password holds a NUL, which AUTH PLAIN cannot send")
	}
	return nil
}

// password asks for a password on a terminal, else it reads a line.
func (p *program) password() (string, error) {
	if !isTerminal(p.stdin) {
		const enough = 4 * maxPassword
		line, err := bufio.NewReader(io.LimitReader(p.stdin, enough)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("read standard input: %w", err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
	}
	terminal := int(p.stdin.(*os.File).Fd())
	defer showOnSignal(terminal)()
	first, err := p.ask(terminal, "Password: ")
	if err != nil {
		return "", err
	}
	second, err := p.ask(terminal, "Again: ")
	if err == nil && first != second {
		err = errors.New("these are two different passwords")
	}
	return first, err
}

// ask reads a line that the terminal does not show. What it says goes to stderr: stdout is for the hash.
func (p *program) ask(terminal int, prompt string) (string, error) {
	fmt.Fprint(p.stderr, prompt)
	line, err := term.ReadPassword(terminal)
	fmt.Fprintln(p.stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(line), nil
}

// showOnSignal has the terminal show again what is typed if a signal ends the program, until stop.
func showOnSignal(terminal int) (stop func()) {
	before, err := term.GetState(terminal)
	if err != nil {
		return func() {}
	}
	signals, stopped := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		select {
		case s := <-signals:
			_ = term.Restore(terminal, before) // there is no better moment
			signal.Reset()
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		case <-stopped:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(stopped)
	}
}
