package smtp

// Reply is what the server answers. The zero Reply is the command's own success.
type Reply struct {
	Code     int
	Enhanced string // like "5.7.1"; "" on the replies that RFC 2034 excepts
	Text     string
	Close    bool // the session ends after it
}

// IsZero tells the command's own success.
func (r Reply) IsZero() bool { return r.Code == 0 }
