//go:build linux

package booted

import (
	"os"
	"strings"
	"testing"
)

func TestPackagesOfMissingPrograms(t *testing.T) {
	if got := packages([]string{"nsenter", "setpriv", "debootstrap"}); strings.Join(got, " ") != "debootstrap util-linux" {
		t.Errorf("got %q", got)
	}
}

func TestNothingIsMountedBelowAnEmptyDirectory(t *testing.T) {
	if found, err := mountsBelow(t.TempDir()); err != nil || len(found) != 0 {
		t.Errorf("got %q, %v", found, err)
	}
	if found, err := mountsBelow("/proc"); err != nil || len(found) == 0 || found[0] != "/proc" {
		t.Errorf("got %q, %v, want /proc first", found, err)
	}
}

func TestThisProcessIsNoHost(t *testing.T) {
	pids, err := oldHosts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			t.Error("this test passes for a host")
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	b := &bounded{most: 5}
	for range 3 {
		if n, err := b.Write([]byte("abc")); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if b.String() != "abcab" {
		t.Errorf("kept %q", b.String())
	}
}
