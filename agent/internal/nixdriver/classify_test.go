package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// saidBy is a nix that said what a file of testdata has.
func saidBy(t *testing.T, file string) *failure {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return saying(string(data))
}

func saying(text string) *failure {
	w := &lineWriter{}
	_, _ = w.Write([]byte(text))
	w.finish()
	return &failure{command: "build", code: 1, lines: w.kept}
}

// TestJudge: the files are what nix 2.26.3 said.
func TestJudge(t *testing.T) {
	for file, want := range map[string]struct {
		passes bool
		says   string
	}{
		"evalerr.txt":   {false, "no such thing configured"},
		"typo.txt":      {false, "attribute 'foo' missing"},
		"attr.txt":      {false, "attribute 'missing' missing"},
		"nosuch.txt":    {false, "does not provide attribute"},
		"bad.txt":       {true, "failed with exit code 3; last 4 log lines: > line 1"}, // its builder found no network
		"dependent.txt": {true, "failed to build"},
		"fod.txt":       {false, "hash mismatch in fixed-output derivation"},
		"killed.txt":    {true, "failed due to signal 9 (Killed)"},
		"fetch.txt":     {true, "Could not connect to server"},
		"fetchdns.txt":  {true, "Could not resolve host"},
		"nosubst.txt":   {true, "there is no substituter that can build it"},
	} {
		err := judge(saidBy(t, file))
		if errors.Is(err, driver.ErrSource) == want.passes || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: got %v, want passing %t and %q", file, err, want.passes, want.says)
		}
	}
}

func TestJudgeMore(t *testing.T) {
	for _, c := range []struct {
		name, said string
		passes     bool
	}{
		{"a pin beats a warning", "error: unable to download 'x'\nerror: fleet: pinned narHash is a, and it is b", false},
		{"a repository that is away, with the expression repeated", "error:\n … while calling the 'fetchTree' builtin\n at «string»:1:12:\n 1| let tree = x; in throw \"fleet: pinned narHash\"\n | ^\n … while fetching the input 'git+file:///x'\n error: Cannot find Git revision 'x'", true},
		{"narHash of an input", "error: NAR hash mismatch in input 'github:a/b': expected 'x' but got 'y'", false},
		{"a builder that failed", "error: builder for '/nix/store/x.drv' failed with exit code 1;\n       last 1 log lines:\n       > test: Connection refused", false},
		{"a cache that is down, and another fault", "warning: error: unable to download 'https://cache'; retrying\nerror: attribute 'x' missing", false},
		{"a full disk", "error: writing to file: No space left on device", true},
		{"no memory", "error: unable to fork: Cannot allocate memory", true},
		{"another nix", "error (ignored): SQLite database '/nix/var/nix/db/db.sqlite' is busy", true},
		{"a git server that is down", "fatal: unable to access 'https://example.org/': Could not resolve host\nerror: program 'git' failed with exit code 128", true},
		{"a daemon that is down", "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused", true},
		{"an import of a missing file", "error: getting status of '/nix/store/x-source/y.nix': No such file or directory", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := judge(saying(c.said)); errors.Is(err, driver.ErrSource) == c.passes {
				t.Errorf("got %v", err)
			}
		})
	}
	if s := saying("error:\n at «string»:1:12:\n 1| let tree = x\n |      ^\n error: away").said(); s != "error: error: away" {
		t.Errorf("said %q", s)
	}
	// Whoever ended nix, it was not the source.
	if err := judge(&failure{command: "build", code: -1}); errors.Is(err, driver.ErrSource) {
		t.Errorf("got %v", err)
	}
}

func TestWhatNixSaysIsBounded(t *testing.T) {
	f := saying("error: " + strings.Repeat("\x1b[31mlong\x1b[0m \x07\r\n", 100_000))
	if len(f.lines) != keptLines || len(f.Error()) > maxSaid+200 {
		t.Errorf("%d lines, %d bytes", len(f.lines), len(f.Error()))
	}
	if s := f.Error(); strings.ContainsFunc(s, unicode.IsControl) || strings.Contains(s, "[31m") {
		t.Errorf("control characters in %q", s)
	}
	if f := saying(strings.Repeat("x", 1<<20)); len(f.lines) != 1 || len(f.lines[0]) != maxLine {
		t.Errorf("%d lines", len(f.lines))
	}
}

// FuzzClean: whatever comes, what is left is printable.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"\x1b[31;1merror:\x1b[0m x", "\x1b", "\x1b[", "a\x9b31m", "\xff\xfe", "ä\u0085", "\x1b]0;title\x07"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if strings.ContainsFunc(got, unicode.IsControl) || got != strings.TrimSpace(got) || len(got) > len(strings.ToValidUTF8(s, "?")) {
			t.Errorf("%q from %q", got, s)
		}
	})
}
