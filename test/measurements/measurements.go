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
func Write(file string, s Section) error {
	return Update(file, s.Name, func(string) (Section, error) { return s, nil })
}

// Update is Write of a section that is made of the text that it had before,
// which is empty where there is none. Nobody else writes meanwhile.
func Update(file, name string, change func(text string) (Section, error)) (err error) {
	if !sectionName.MatchString(name) {
		return fmt.Errorf("section %q: want lower-case letters and dashes", name)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("writing section %s: %w", name, err)
	}
	defer func() { _ = dir.Close() }() // and the lock with it
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("writing section %s: %w", name, err)
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("writing section %s: %w", name, err)
	}
	_, was, _, _, err := cut(string(old), name)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	s, err := change(was)
	if err != nil {
		return fmt.Errorf("writing section %s: %w", name, err)
	}
	s.Name = name
	if strings.Contains(s.Text, "<!-- ") {
		return fmt.Errorf("section %s: its text has a comment, which could pass for a marker", name)
	}
	text, err := replace(string(old), s)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return atomicfile.WriteFile(file, []byte(text), 0o644)
}

// Read returns what is between a section's markers: its text, and the command
// that wrote it. It is empty where there is no such section, or no file.
func Read(file, name string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading section %s: %w", name, err)
	}
	_, text, _, _, err := cut(string(b), name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return text, nil
}

func markers(name string) (begin, end string) {
	return "<!-- begin " + name + " -->\n", "<!-- end " + name + " -->\n"
}

// cut cuts a section out.
func cut(text, name string) (before, section, after string, found bool, err error) {
	begin, end := markers(name)
	before, rest, found := strings.Cut(text, begin)
	if !found {
		return text, "", "", false, nil
	}
	section, after, closed := strings.Cut(rest, end)
	if !closed || strings.Contains(after, begin) {
		return "", "", "", false, fmt.Errorf("the markers of section %s are not one pair", name)
	}
	return before, section, after, true, nil
}

func replace(old string, s Section) (string, error) {
	if old == "" {
		old = head
	}
	begin, end := markers(s.Name)
	section := begin + "\n" + strings.TrimSpace(s.Text) + "\n\nWritten by `" + s.Command + "`.\n\n" + end
	before, _, after, found, err := cut(old, s.Name)
	if err != nil {
		return "", err
	}
	if !found {
		return strings.TrimRight(old, "\n") + "\n\n" + section, nil
	}
	return before + section + after, nil
}

// Revision is that of the working tree. What is not committed makes it dirty,
// but for the measurements: another section says nothing about this one's.
func Revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always").Output()
	if err != nil {
		return "unknown"
	}
	revision := string(bytes.TrimSpace(out))
	if exec.CommandContext(ctx, "git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)"+File).Run() != nil {
		revision += "-dirty"
	}
	return revision
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
	return fmt.Sprintf("%s, revision %s, %s, Linux %s, %d × %s", time.Now().UTC().Format(time.DateOnly), Revision(ctx),
		runtime.Version(), bytes.TrimSpace(kernel), runtime.NumCPU(), model)
}
