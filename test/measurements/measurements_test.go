package measurements

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestSectionsLeaveEachOtherAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "measurements.md")
	write := func(name, text string) {
		t.Helper()
		if err := Write(file, Section{Name: name, Command: "make " + name, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	write("bench", "## Bench\n\nfirst\n")
	write("lab", "## Lab\n\nbooted\n")
	write("bench", "## Bench\n\nsecond\n")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const want = head + `
<!-- begin bench -->

## Bench

second

Written by ` + "`make bench`" + `.

<!-- end bench -->

<!-- begin lab -->

## Lab

booted

Written by ` + "`make lab`" + `.

<!-- end lab -->
`
	if string(b) != want {
		t.Errorf("got:\n%s\nwant:\n%s", b, want)
	}
}

// TestUpdate: a section is made of what it was, and two lose nothing of each
// other's.
func TestUpdate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "measurements.md")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := Update(file, "lab", func(was string) (Section, error) {
				return Section{Text: strings.Repeat("row\n", strings.Count(was, "row")+1)}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if text, err := Read(file, "lab"); err != nil || strings.Count(text, "row") != 8 {
		t.Errorf("got %q, %v", text, err)
	}
	if text, err := Read(file, "bench"); err != nil || text != "" {
		t.Errorf("of no section: %q, %v", text, err)
	}
	refused := errors.New("refused")
	if err := Update(file, "lab", func(string) (Section, error) { return Section{}, refused }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if text, err := Read(file, "lab"); err != nil || strings.Count(text, "row") != 8 {
		t.Errorf("after an update that failed: %q, %v", text, err)
	}
}

// TestRevision: what is not committed is said, but for the measurements.
func TestRevision(t *testing.T) {
	t.Chdir(t.TempDir())
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := Revision(t.Context()); r != "unknown" {
		t.Errorf("of no repository: %s", r)
	}
	if err := os.Mkdir(filepath.Dir(File), 0o700); err != nil {
		t.Fatal(err)
	}
	write(File, "old")
	write("main.go", "old")
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	clean := Revision(t.Context())
	write(File, "new")
	if r := Revision(t.Context()); r != clean || strings.Contains(r, "dirty") {
		t.Errorf("with measurements: %s, before %s", r, clean)
	}
	write("main.go", "new")
	if r := Revision(t.Context()); r != clean+"-dirty" {
		t.Errorf("with a change: %s, before %s", r, clean)
	}
	git("add", ".")
	if r := Revision(t.Context()); r != clean+"-dirty" {
		t.Errorf("with a change that is staged: %s, before %s", r, clean)
	}
}

func TestWritersTakeTurns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "measurements.md")
	names := []string{"a", "b", "c", "d", "e"}
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			if err := Write(file, Section{Name: name, Text: name}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.Count(string(b), "<!-- begin "+name+" -->") != 1 {
			t.Errorf("section %s is not there once:\n%s", name, b)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		old string
		s   Section
	}{
		"no name":       {"", Section{}},
		"upper case":    {"", Section{Name: "Lab"}},
		"a comment":     {"", Section{Name: "lab", Text: "<!-- end lab -->"}},
		"no end":        {"<!-- begin lab -->\n", Section{Name: "lab"}},
		"begun twice":   {"<!-- begin lab -->\n<!-- end lab -->\n<!-- begin lab -->\n<!-- end lab -->\n", Section{Name: "lab"}},
		"end in front":  {"<!-- end lab -->\n<!-- begin lab -->\n", Section{Name: "lab"}},
		"other's end":   {"<!-- begin lab -->\n<!-- end bench -->\n", Section{Name: "lab"}},
		"end on a line": {"<!-- begin lab -->\ntext <!-- end lab --> text\n", Section{Name: "lab"}},
	} {
		file := filepath.Join(dir, "file.md")
		if err := os.WriteFile(file, []byte(c.old), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Write(file, c.s); err == nil {
			t.Errorf("%s: taken", name)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != c.old {
			t.Errorf("%s: the file is now %q, %v", name, b, err)
		}
	}
	if err := Write(filepath.Join(dir, "missing", "file.md"), Section{Name: "lab"}); err == nil {
		t.Error("written to a directory that is not there")
	}
}

func TestWhere(t *testing.T) {
	if w := Where(t.Context()); !strings.Contains(w, "revision ") || strings.Contains(w, "\n") {
		t.Errorf("got %q", w)
	}
}
