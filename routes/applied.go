package routes

// Applied is what putting a table in force did.
type Applied struct {
	Generation uint64            `json:"generation"` // counts the tables put in force, from 1
	Listeners  []AppliedListener `json:"listeners,omitempty"`
	Warnings   []string          `json:"warnings,omitempty"`
}

// AppliedListener is what became of one listener.
type AppliedListener struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Action   string `json:"action"`   // one of the actions below
	Sessions int64  `json:"sessions"` // open at that moment
}

// The actions of a reload on a listener.
const (
	Kept    = "kept"    // nothing of its own changed
	Updated = "updated" // on the same socket
	Added   = "added"
	Removed = "removed"
	Rebound = "rebound" // on another address
	Remade  = "remade"  // on the same address, with another socket: the file of its Unix socket was gone
)
