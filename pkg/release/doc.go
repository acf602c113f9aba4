// Package release signs and verifies a fleet's documents: trust roots,
// generations, secrets manifests, loosenings and hosts' reports.
//
// Documents are DSSE envelopes (secure-systems-lab/dsse, protocol.md) with
// ed25519 signatures over strict, bounded JSON. The bytes that were signed are
// the bytes that travel and are stored; a document's digest is the SHA-256 of
// these payload bytes, so that it does not depend on who signed.
//
// Trust starts from a root that is pinned by digest, and walks from version N
// to N+1 only when the thresholds of both signed N+1 (TUF specification 5.3).
// A key id is the SHA-256 of the public key, so one key can't have two ids.
//
// The package does no I/O and reads no clock: callers pass now.
package release
