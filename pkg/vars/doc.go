// Package vars reads and writes the trees in which clan keeps generated values and the keys
// of those who may read them, so that clan and sops read what is written here, and the
// other way round.
//
//	vars/per-machine/MACHINE/GENERATOR/FILE/…   value: public; secret: a document of sops
//	vars/shared/GENERATOR/FILE/…                the same, for all machines
//	vars/per-export/KEY/GENERATOR/FILE/…        the same, for an export
//	sops/{users,machines}/NAME/key.json         public keys
//	sops/groups/GROUP/{users,machines}/NAME     links to members
//	sops/secrets/NAME/…                         secrets that no generator makes
//
// A directory that may hold a secret is an [Entry]. Besides the document it has links, in
// users, machines and groups, to those who are meant to read it: what the links come to is
// what is wanted, what the document says is what is so, and [Tree.Check] compares them.
//
// [Open] reads names, keys and links, and no secret; a [Tree] is what was there at that
// moment, and does not change. It is bounded, survives what is odd in real trees, and says
// so in [Tree.Warnings]. [Tree.Read] decrypts one value with the private keys of who runs it.
//
// Writing is a [Change]: [Begin] takes the tree's lock and first ends what an interrupted
// run had begun; Put, Delete, AddReader and the like prepare everything in memory, secrets
// encrypted; [Change.Commit] makes all of it or nothing. Ciphertext is staged below
// .fleet-vars (ignored by git) together with a list of what is to be done; once that list
// is durable the change will be made, if need be by the next Begin, and before that it never
// was. Plaintext is never on disk. Commit returns the paths that changed, for git, which is
// the caller's business; so are which generators there are, and where values come from.
//
// Secrets of generators may also be kept as clan's age backend does, in [AgeStore]; callers
// that do not care use [Store].
package vars
