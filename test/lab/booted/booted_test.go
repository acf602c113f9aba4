//go:build linux

package booted

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestPackagesOfMissingPrograms(t *testing.T) {
	if got := packages([]string{"nsenter", "setpriv", "debootstrap"}); strings.Join(got, " ") != "debootstrap util-linux" {
		t.Errorf("got %q", got)
	}
}

func TestOnlyWhatCannotBeHadIsNoFailure(t *testing.T) {
	exit := errors.New("exit status 1")
	for out, want := range map[string]bool{
		"I: Retrieving InRelease\nE: Failed getting release file http://deb.example.org/Release\n": true,
		"I: Retrieving git\nE: Couldn't download packages: git\n":                                  true,
		"W: Failure while configuring base packages.\n":                                            false,
		"": false,
	} {
		if err := debootstrapFailed(out, exit); errors.Is(err, ErrNotHere) != want {
			t.Errorf("%q: %v", out, err)
		}
	}
	// A directory that can't hold hosts is said, as whoever runs this.
	if err := permitted(t.Context(), "/proc"); !errors.Is(err, ErrNotHere) {
		t.Errorf("got %v", err)
	}
	if os.Geteuid() != 0 {
		if err := permitted(t.Context(), t.TempDir()); !errors.Is(err, ErrNotHere) {
			t.Errorf("without root: %v", err)
		}
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
