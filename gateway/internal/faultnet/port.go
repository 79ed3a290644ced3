package faultnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below those that Linux hands to outgoing connections (32768 and up): a server that is stopped and
// started again must find its port free, and a client that redials a closed port must not end up connected to itself.
const firstPort, lastPort = 16384, 32767

// Port returns a TCP port of 127.0.0.1 that nothing listens on and that no other caller of Port gets, in this process or
// another, while this process lives. What says so is the UDP port of the same number, held open until the process ends.
func Port() (int, error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if reserve(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

func reserve(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	held, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		held.Close()
		return false
	}
	l.Close()
	reservations.Store(port, held) // else the garbage collector closes it
	return true
}
