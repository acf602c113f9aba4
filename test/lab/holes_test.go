//go:build linux

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestHolesAreShown: what docs/holes.md names exists, and each row names something.
func TestHolesAreShown(t *testing.T) {
	text, err := os.ReadFile("../../docs/holes.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, g := range groups() {
		for _, s := range g.scenarios {
			known[g.name+"/"+s.name] = true
		}
	}
	test := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)`)
	if err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range test.FindAllStringSubmatch(string(text), -1) {
			known[m[1]] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rows := 0
	split := regexp.MustCompile(`(?:^|; )(lab|test): `)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || strings.HasPrefix(cells[0], " of ") || strings.HasPrefix(cells[0], " ---") {
			continue
		}
		rows++
		shown := split.ReplaceAllString(strings.TrimSpace(cells[3]), "; ")
		for name := range strings.SplitSeq(strings.TrimPrefix(shown, "; "), "; ") {
			if !known[name] {
				t.Errorf("%s: there is no %q", strings.TrimSpace(cells[1]), name)
			}
		}
	}
	if rows < 25 {
		t.Errorf("%d rows", rows)
	}
}
