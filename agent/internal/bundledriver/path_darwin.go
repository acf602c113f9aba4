package bundledriver

// DefaultPath is PATH for the programs of bundles: directories of root's only. /usr/local
// is a user's where Homebrew is in it, and what is run is run as root.
const DefaultPath = "/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin"
