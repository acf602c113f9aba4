//go:build crashpoints

package journal

// compactMin is small where crashes are tried, so that they meet compaction.
const compactMin = 16 << 10
