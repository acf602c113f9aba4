// Package generator has the built-in generators of vars: what makes the keys,
// passwords and certificates of a fleet without a shell, Nix or network. A
// generator is data (what files it makes, what it asks and reads) and a pure
// function of its inputs and of random bytes. What it writes is to the byte what
// clan's scripts for the same thing would write, so that a tree may be filled by
// either.
//
// Where files are, who reads them, when a generator runs and what becomes of
// the answers is not of this package.
package generator
