//go:build !shortlived

package pki

import "time"

const hostTTL = 7 * 24 * time.Hour
