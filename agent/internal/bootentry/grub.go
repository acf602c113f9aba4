package bootentry

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// GRUB is GRUB 2 as NixOS installs it: one menu, made anew for all systems, with the default
// in front and the generations in a submenu. What is booted once is the variable next_entry
// of the environment block (GRUB manual, "The GRUB environment block"), which the menu itself
// takes back.
type GRUB struct {
	// Dir has grub.cfg and grubenv.
	Dir string
}

const (
	grubMenu        = "grub.cfg"
	grubEnvironment = "grubenv"
	// maxMenuBytes bounds the menu: an entry has less than a kilobyte.
	maxMenuBytes = 4 << 20
)

// grubEntry is an entry of a menu.
type grubEntry struct {
	// id is what names it: titles, of submenus first.
	id string
	// init of its kernel; empty where it has none, or loads more than that.
	init string
	// first says that it is the menu's first, which is number 0.
	first bool
}

// Find implements Loader. Titles name entries, and of two with one name GRUB takes the first.
func (g GRUB) Find(init string) (id string, err error) {
	menu, err := g.menu()
	if err != nil {
		return "", err
	}
	for i, e := range menu.entries {
		same := func(o grubEntry) bool { return o.id == e.id }
		if init != "" && e.init == init && slices.IndexFunc(menu.entries, same) == i {
			return e.id, nil
		}
	}
	return "", fmt.Errorf("looking for a boot entry: %w: %s, in %s", ErrNone, init, filepath.Join(g.Dir, grubMenu))
}

// Boots implements Loader: only a default that is number 0 is known, which is NixOS's own.
func (g GRUB) Boots(init string) (bool, error) {
	if _, err := g.Find(init); err != nil {
		return false, err
	}
	menu, err := g.menu()
	if err != nil {
		return false, err
	}
	first := slices.IndexFunc(menu.entries, func(e grubEntry) bool { return e.first })
	return slices.Equal(slices.Compact(menu.defaults), []string{"0"}) && first >= 0 && menu.entries[first].init == init, nil
}

// Once implements Loader, for grub-editenv.
func (g GRUB) Once(id string) []string {
	file := filepath.Join(g.Dir, grubEnvironment)
	if id == "" {
		return []string{file, "unset", "next_entry"}
	}
	return []string{file, "set", "next_entry=" + id}
}

// Forgets says whether the menu boots what is to be booted once, and takes that back.
func (g GRUB) Forgets() (bool, error) {
	menu, err := g.menu()
	return menu.loads && menu.boots && menu.forgets, err
}

// grubMenuOf is what of a menu counts here.
type grubMenuOf struct {
	entries []grubEntry
	// defaults are the numbers or names that the menu sets, but for next_entry.
	defaults []string
	// loads, boots and forgets say what is done with next_entry.
	loads, boots, forgets bool
}

func (g GRUB) menu() (m grubMenuOf, err error) {
	text, err := atomicfile.ReadAtMost(filepath.Join(g.Dir, grubMenu), maxMenuBytes)
	if err != nil {
		return m, fmt.Errorf("looking for a boot entry: %w", err)
	}
	return readMenu(string(text)), nil
}

// block is what of a menu is within braces.
type block struct {
	// title of an entry or of a submenu; named is false for neither, or one that can't be
	// read.
	title string
	named bool
	// entry is its number among the entries found, -1 for none.
	entry int
}

// readMenu reads the statements of a menu line by line, as the menu's maker writes them. What
// it does not know, it passes over: an entry that is not found is not booted.
func readMenu(text string) (m grubMenuOf) {
	var within []block
	numbered := false // whether number 0 was seen
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasSuffix(line, "{"):
			b := block{entry: -1}
			if word == "menuentry" || word == "submenu" {
				b.title, b.named = title(rest)
				if word == "menuentry" {
					b.entry = len(m.entries)
					m.entries = append(m.entries, grubEntry{id: name(within, b), first: len(within) == 0 && !numbered})
				}
				numbered = numbered || len(within) == 0
			}
			within = append(within, b)
		case line == "}":
			within = within[:max(0, len(within)-1)]
		case len(within) > 0:
			if e := within[len(within)-1].entry; e >= 0 && m.entries[e].id != "" {
				m.entries[e].load(word, rest)
			}
		case word == "load_env":
			m.loads = true
		case word == "save_env":
			m.forgets = m.forgets || slices.Contains(strings.Fields(rest), "next_entry")
		case strings.HasPrefix(line, "set default="):
			if value := strings.Trim(strings.TrimPrefix(line, "set default="), `"`); value == "${next_entry}" {
				m.boots = true
			} else {
				m.defaults = append(m.defaults, value)
			}
		}
	}
	return m
}

// load notes what an entry loads.
func (e *grubEntry) load(command, rest string) {
	switch command {
	case "linux", "linuxefi", "linux16":
		for param := range strings.FieldsSeq(rest) {
			if init, ok := strings.CutPrefix(param, "init="); ok {
				e.init = init
			}
		}
	}
}

// title reads a quoted title.
func title(rest string) (text string, ok bool) {
	if rest == "" || rest[0] != '"' && rest[0] != '\'' {
		return "", false
	}
	text, _, ok = strings.Cut(rest[1:], rest[:1])
	return text, ok && text != "" && !strings.ContainsAny(text, "\\$")
}

// name names an entry; empty where something around it has no name. In names a > is
// doubled.
func name(within []block, b block) string {
	names := make([]string, 0, len(within)+1)
	for _, b := range append(slices.Clone(within), b) {
		if !b.named {
			return ""
		}
		names = append(names, strings.ReplaceAll(b.title, ">", ">>"))
	}
	return strings.Join(names, ">")
}
