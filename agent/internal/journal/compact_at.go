//go:build !crashpoints

package journal

// compactMin is the size from which on compaction is thought of, in bytes.
const compactMin = 1 << 20
