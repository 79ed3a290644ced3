package smtp

import "bytes"

// unstuffer finds the end of data and takes away the dots that hid it (RFC 5321 section 4.5.2). Only <CRLF>.<CRLF> is the
// end, and only CRLF ends a line: whoever sees an end, or the beginning of a line, elsewhere can be talked into another
// mail than the next server sees. The zero value stands at the beginning of the data, which is the beginning of a line.
type unstuffer struct {
	endings LineEndings
	chunks  bool // no dots were added, and what ends is known otherwise: BDAT
	at      position
	bare    bool // a CR or LF that is no CRLF was seen
}

type position int

const (
	lineStart position = iota
	afterDot           // one that began a line, and is not part of it
	inLine
	bareStart // behind a bare LF that was made a CRLF: no end of data is there, but dots were added
	bareDot   // behind a dot there, which is written if another does not follow
)

// landing returns where in room to read what decode shall write to the beginning of room.
func (u *unstuffer) landing(room []byte) []byte {
	if u.endings != FixBare {
		return room
	}
	// Each octet may become two.
	return room[len(room)/2:]
}

// decode writes the content of src to dst, which may overlap src as landing says, and returns how many octets it wrote and
// how many it used. Behind the end of data it uses none. A CR that is last in src is not used: what follows decides what
// it is, so that the caller passes it again.
func (u *unstuffer) decode(dst, src []byte) (written, used int, done bool) {
	if u.chunks && u.endings != FixBare {
		return move(dst, src), len(src), false
	}
	for used < len(src) {
		rest := src[used:]
		switch {
		case u.at == lineStart && rest[0] == '.' && !u.chunks:
			u.at = afterDot
			used++
			continue
		case u.at == afterDot && rest[0] == '\r':
			if len(rest) == 1 {
				return written, used, false
			}
			if rest[1] == '\n' {
				return written, used + len("\r\n"), true
			}
		}
		switch {
		case u.at == bareStart && rest[0] == '.':
			u.at = bareDot
			used++
			continue
		case u.at == bareDot && rest[0] == '.':
			u.at = inLine
		}
		written += u.keepDot(dst[written:])
		text := rest
		cr := bytes.IndexByte(rest, '\r')
		if cr >= 0 {
			text = rest[:cr]
		}
		written += u.text(dst[written:], text)
		used += len(text)
		if cr >= 0 {
			written += u.keepDot(dst[written:])
		}
		switch {
		case cr < 0:
		case cr+1 == len(rest):
			return written, used, false
		case rest[cr+1] == '\n':
			written += copy(dst[written:], "\r\n")
			used += len("\r\n")
			u.at = lineStart
		default:
			written += u.bareEnd(dst[written:], '\r')
			used++
		}
	}
	return written, used, false
}

// text writes src, which has no CR, and returns how many octets it wrote.
func (u *unstuffer) text(dst, src []byte) (written int) {
	for u.endings == FixBare || u.endings == RejectBare && !u.bare {
		lf := bytes.IndexByte(src, '\n')
		if lf < 0 {
			break
		}
		written += move(dst[written:], src[:lf])
		written += u.bareEnd(dst[written:], '\n')
		src = src[lf+1:]
		if u.endings != FixBare || u.chunks {
			continue
		}
		switch {
		case len(src) == 0:
			u.at = bareStart
		case src[0] == '.' && len(src) == 1:
			u.at, src = bareDot, nil
		case src[0] == '.' && src[1] == '.':
			src = src[1:]
		}
	}
	return written + move(dst[written:], src)
}

// keepDot writes a dot behind a bare LF that no other dot follows, and returns how many octets that is: nobody added it.
func (u *unstuffer) keepDot(dst []byte) (written int) {
	if u.at == bareDot {
		written = copy(dst, ".")
	}
	u.at = inLine
	return written
}

// bareEnd writes what becomes of c, a bare CR or LF, and returns how many octets that is.
func (u *unstuffer) bareEnd(dst []byte, c byte) int {
	u.bare = true
	if u.endings == FixBare {
		return copy(dst, "\r\n")
	}
	dst[0] = c
	return 1
}

// move is copy, but for the usual case that src is in its place already.
func move(dst, src []byte) int {
	if len(src) == 0 || &dst[0] == &src[0] {
		return len(src)
	}
	return copy(dst, src)
}
