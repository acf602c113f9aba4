//go:build shortlived

package pki

import "time"

// For test/lab, where a host sleeps until its identity has ended. No program that is
// shipped is built so.
const hostTTL = 12 * time.Second
