//go:build !linux

package nixdriver

// grubWrites: there is no NixOS here.
func grubWrites(string) (why string, err error) { return "this is not Linux", nil }
