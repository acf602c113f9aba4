// Package journal is the agent's memory: an append-only, checksummed file of
// records, flushed to the disk before the effect that a record announces. Its
// fold is all that an agent knows after a restart, and its transitions are the
// outbox towards the coordinator.
//
// In the state directory lie
//
//   - journal: lines of `<crc32c, 8 hex digits> <JSON array of records>\n`.
//     One line is one Append, so that a batch is there whole or not at all.
//   - version: the format's version. A newer one is refused with ErrNewerState;
//     fields may be added without a new version, kinds of records may not.
//   - lock: held by the one agent that writes.
//
// Anyone who may open the file can read it without the lock (Read): the file
// only grows, or is replaced whole when it is compacted.
package journal
