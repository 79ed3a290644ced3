package config

// Fault is one thing that is wrong, or odd, in a configuration file.
type Fault struct {
	Place   Place
	Key     string // like listeners[1].size_limit; "" for a fault of the whole file
	Message string // what is wrong and what to do
}

// Faults is every fault of a configuration, in the order of their places. It is the error that Read returns.
type Faults []Fault

// Error gives one line a fault, each like "lsmtpd.yaml:14:7: listeners[1].size_limit: …".
func (f Faults) Error() string { return "" }
