//go:build !darwin

package bundledriver

// DefaultPath is PATH for the programs of bundles.
const DefaultPath = "/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
