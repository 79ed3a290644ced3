package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

const versionHelp = `usage: lsmtpd version

Prints the version of lsmtpd, that of the Go that built it, and the system it
was built for.

example:
  lsmtpd version
`

func runVersion(p *program, args []string) int {
	f := p.flags("version", versionHelp)
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	fmt.Fprintf(p.stdout, "lsmtpd %s %s %s/%s\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitDone
}

// programVersion is the linker's version, else what Go wrote into the program: the module's version and the commit.
func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
