package nixdriver

// DefaultPath is PATH of nix and of what activations run: directories of root's only.
// /usr/local is a user's where Homebrew is in it, and what is run is run as root.
const DefaultPath = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/sbin:/usr/bin:/sbin:/bin"
