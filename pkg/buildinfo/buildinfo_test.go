package buildinfo

import "testing"

func TestVersion(t *testing.T) {
	if Version() == "" {
		t.Error("a build without a version has no name")
	}
	version = "v1.2.3"
	t.Cleanup(func() { version = "" })
	if got := Version(); got != "v1.2.3" {
		t.Errorf("got %q, want what the linker set", got)
	}
}
