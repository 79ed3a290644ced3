//go:build !race

package smtp_test

const raced = false
