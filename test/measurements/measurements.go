// Package measurements writes docs/measurements.md. Several programs measure,
// each at its own time: each owns one section of the file, between markers, and
// leaves the others as they are.
package measurements

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// File is where the measurements are, from the root of the repository.
const File = "docs/measurements.md"

const head = "# Measurements\n\nEach section names the command that wrote it; do not edit them.\n"

var sectionName = regexp.MustCompile(`^[a-z][a-z-]*$`)

// Section is what one command writes.
type Section struct {
	// Name is that of the section's markers: lower-case letters and dashes.
	Name string
	// Command that wrote it.
	Command string
	// Text in Markdown: headings of the second level and below.
	Text string
}

// Write puts a section in the place of the one with its name, or behind the
// others where there is none. The file may be missing. Two that write at once
// take turns.
func Write(file string, s Section) (err error) {
	if !sectionName.MatchString(s.Name) {
		return fmt.Errorf("section %q: want lower-case letters and dashes", s.Name)
	}
	if strings.Contains(s.Text, "<!-- ") {
		return fmt.Errorf("section %s: its text has a comment, which could pass for a marker", s.Name)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("writing section %s: %w", s.Name, err)
	}
	defer func() { _ = dir.Close() }() // and the lock with it
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("writing section %s: %w", s.Name, err)
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing section %s: %w", s.Name, err)
	}
	text, err := replace(string(old), s)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return atomicfile.WriteFile(file, []byte(text), 0o644)
}

func replace(old string, s Section) (string, error) {
	if old == "" {
		old = head
	}
	begin, end := "<!-- begin "+s.Name+" -->\n", "<!-- end "+s.Name+" -->\n"
	section := begin + "\n" + strings.TrimSpace(s.Text) + "\n\nWritten by `" + s.Command + "`.\n\n" + end
	before, rest, found := strings.Cut(old, begin)
	if !found {
		return strings.TrimRight(old, "\n") + "\n\n" + section, nil
	}
	_, after, closed := strings.Cut(rest, end)
	if !closed || strings.Contains(after, begin) {
		return "", fmt.Errorf("the markers of section %s are not one pair", s.Name)
	}
	return before + section + after, nil
}

// Where describes what figures come from: date, revision, compiler, kernel and
// processors.
func Where(ctx context.Context) string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(b) {
			if rest, ok := bytes.CutPrefix(line, []byte("model name")); ok {
				model = string(bytes.TrimSpace(bytes.TrimLeft(rest, "\t :")))
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	revision := "unknown"
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		revision = string(bytes.TrimSpace(out))
	}
	return fmt.Sprintf("%s, revision %s, %s, Linux %s, %d × %s", time.Now().UTC().Format(time.DateOnly), revision,
		runtime.Version(), bytes.TrimSpace(kernel), runtime.NumCPU(), model)
}
