package config

// Read reads the file at path and every file it names. Its error is Faults.
func Read(path string) (*Config, error) { return nil, nil }
