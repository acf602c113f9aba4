package buildinfo

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

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

func TestAddFlag(t *testing.T) {
	version = "v1.2.3"
	t.Cleanup(func() { version = "" })
	root := &cobra.Command{Use: "program", RunE: func(*cobra.Command, []string) error { return errors.New("it ran") }}
	AddFlag(root)
	var out strings.Builder
	root.SetOut(&out)
	root.SetArgs([]string{"--version"})
	if err := root.Execute(); err != nil || out.String() != Text("program")+"\n" || Text("program") != "program version v1.2.3 ("+runtime.Version()+")" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
