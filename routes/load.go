package routes

import "lsmtpd/routes/config"

// Load reads the configuration at path and compiles it. Its error is config.Faults.
func Load(path string) (*Table, error) { return nil, nil }

// Compile turns a configuration into a Table. Its error is config.Faults.
func Compile(c *config.Config) (*Table, error) { return nil, nil }
