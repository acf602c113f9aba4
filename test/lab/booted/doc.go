//go:build linux

// Package booted runs real hosts on this machine: booted systemd with a network
// of their own and a real Nix, in containers of systemd-nspawn. A container may
// become a machine of QEMU's, with a firmware, a boot loader and a kernel. It
// needs root.
//
// All that it makes has the lab's prefix in its name (network namespaces,
// machines, the directory of mounts), so that what a run left that was killed is
// found and taken away by the next one. Nothing is made in the network namespace
// that it was started in, and it ends only processes that it started, by number,
// or that bear the lab's names from a run that is over.
package booted
