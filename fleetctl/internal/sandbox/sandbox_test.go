package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNone: without a sandbox nothing runs, and it says what to do.
func TestNone(t *testing.T) {
	nothing := func(name string) (string, error) { return "", &exec.Error{Name: name, Err: exec.ErrNotFound} }
	for goos, hint := range map[string]string{"linux": "install bubblewrap", "darwin": "belongs to macOS", "plan9": "on Linux or macOS"} {
		_, err := find(Options{}, goos, nothing)
		if !errors.Is(err, ErrNone) || !strings.Contains(ui.HintOf(err), hint) {
			t.Errorf("%s: %v; %s", goos, err, ui.HintOf(err))
		}
	}
}

// TestSeatbelt: what sandbox-exec is told on macOS.
func TestSeatbelt(t *testing.T) {
	s, err := find(Options{}, "darwin", func(name string) (string, error) {
		if name == "bash" {
			return exec.LookPath("bash")
		}
		return name, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := work{"/private/var/folders/x/fleetctl-1/run-1"}
	args := s.system.command(w, []string{"/bin/bash", "script"})
	if args[0] != "/usr/bin/sandbox-exec" || args[1] != "-p" || !slices.Equal(args[len(args)-2:], []string{"/bin/bash", "script"}) {
		t.Errorf("arguments %q", args)
	}
	text := args[2]
	if !strings.HasPrefix(text, "(version 1)\n(deny default)\n") || strings.Count(text, "(") != strings.Count(text, ")") {
		t.Errorf("profile\n%s", text)
	}
	for _, never := range []string{"network", "/Users", "(allow default)", "/private/tmp", "file-write* (subpath \"/"} {
		if strings.Contains(text, never) {
			t.Errorf("the profile has %s:\n%s", never, text)
		}
	}
	for _, dir := range []string{inDir, outDir, promptsDir, tmpDir} {
		if !strings.Contains(text, "\n  (subpath \""+w.path(dir)+"\")") {
			t.Errorf("%s cannot be written to:\n%s", dir, text)
		}
	}
	if env := s.environment(Job{}, w); !slices.Contains(env, "TMPDIR="+w.path(tmpDir)) || !slices.Contains(env, "out="+w.path(outDir)) {
		t.Errorf("environment %q", env)
	}
}

// macTools stand in for macOS's own.
type macTools struct {
	ran  []string
	fail string
}

func (m *macTools) run(_ context.Context, program string, args ...string) (string, error) {
	m.ran = append(m.ran, filepath.Base(program)+" "+args[0])
	if m.fail == filepath.Base(program) {
		return "", errors.New("no")
	}
	if args[0] == "attach" {
		return "/dev/disk7", nil
	}
	return "", nil
}

// TestRAMDisk: whatever fails, the disk is ejected.
func TestRAMDisk(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	m := &macTools{}
	dir, free, err := ramDisk(t.Context(), m.run)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := free(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(m.ran, ", "); got != "hdiutil attach, newfs_hfs -v, diskutil mount, hdiutil detach" {
		t.Errorf("ran %s", got)
	}
	for _, fail := range []string{"newfs_hfs", "diskutil"} {
		m := &macTools{fail: fail}
		if _, _, err := ramDisk(t.Context(), m.run); err == nil || m.ran[len(m.ran)-1] != "hdiutil detach" {
			t.Errorf("%s: %v after %q", fail, err, m.ran)
		}
	}
	if _, _, err := ramDisk(t.Context(), (&macTools{fail: "hdiutil"}).run); err == nil {
		t.Error("a disk without hdiutil")
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestText: values, and lines of them, are cut out; so is what may be the rest of one, and
// what does something to a terminal.
func TestText(t *testing.T) {
	var out tail
	_, _ = out.Write([]byte("a correct horse b\nline two\x1b[31m\nab\n"))
	if got := out.text([][]byte{[]byte("correct horse\n"), []byte("x\nline two\ny"), []byte("ab")}); strings.Contains(got, "horse") || strings.Contains(got, "two") || strings.Contains(got, "\x1b") || !strings.Contains(got, "a (hidden) b\n(hidden)") {
		t.Errorf("%q", got)
	}
	_, _ = out.Write([]byte(strings.Repeat("s", maxPrinted) + "secret\nnext\n"))
	if got := out.text(nil); got != "next" {
		t.Errorf("%.40q", got)
	}
}
