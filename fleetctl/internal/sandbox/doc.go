// Package sandbox runs the scripts of generators where they reach nothing but what they are
// given: no network, no home, no environment, and no file that can be written to but those
// of the run. On Linux bubblewrap makes that place, on macOS sandbox-exec. Where neither can,
// nothing runs.
//
// What a script reads and makes is in memory: a file system of the kernel's on Linux, a RAM
// disk on macOS. What it prints is bounded, kept from everybody who does not ask for it, and
// has the values that are known cut out even then.
package sandbox
