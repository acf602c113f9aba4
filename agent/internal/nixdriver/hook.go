package nixdriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

const (
	// maxConfigBytes bounds what nix prints of its configuration, and what is read
	// of one file of it.
	maxConfigBytes = 1 << 20
	// maxConfigFiles bounds the files that include each other.
	maxConfigFiles = 64
	// blanks are what nix takes for none of a machine's name.
	blanks = " \t\r\n"
)

// builders remembers what nix is configured to hand builds to.
//
// For each "nix build" that builds something nix starts a process of its own to
// ask it about other machines, the build hook (nix.conf(5), build-hook), which
// reads the same configuration: where no other machine is configured, a fifth of
// a small build's time goes to an answer that is known.
type builders struct {
	mu sync.Mutex // guards what follows
	// stamp is what the configuration's files looked like when nix was asked.
	stamp string
	// setting is nix's setting "builders"; known says that nix could tell.
	setting string
	known   bool
}

// hookless are the options that leave the build hook out; none where another
// machine may build, or where that can't be told.
func (b *base) hookless(ctx context.Context) []string {
	// Through a daemon it is the daemon's configuration that counts.
	if store := os.Getenv("NIX_REMOTE"); store != "" && store != "auto" && store != "local" {
		return nil
	}
	if unix.Access(b.at("/nix/var/nix"), unix.R_OK|unix.W_OK) != nil {
		return nil
	}
	b.builders.mu.Lock()
	defer b.builders.mu.Unlock()
	if stamp := b.configStamp(); stamp != b.builders.stamp {
		b.builders.setting, b.builders.known = b.askBuilders(ctx)
		b.builders.stamp = stamp
		if ctx.Err() != nil {
			b.builders.stamp = ""
		}
	}
	if !b.builders.known || !b.noMachines(b.builders.setting) {
		return nil
	}
	return []string{"--option", "build-hook", ""}
}

// askBuilders asks nix for its setting.
func (b *base) askBuilders(ctx context.Context) (setting string, known bool) {
	for _, command := range [][]string{{"config", "show", "--json"}, {"show-config", "--json"}} { // 2.20 renamed it
		out, err := b.run(ctx, nil, maxConfigBytes, command...)
		if err != nil {
			continue
		}
		return decodeBuilders(out)
	}
	return "", false
}

// decodeBuilders reads the setting from what nix shows of its configuration. It
// isn't known where nix does not say it as text.
func decodeBuilders(shown []byte) (setting string, known bool) {
	var all map[string]struct {
		Value *json.RawMessage `json:"value"`
	}
	if json.Unmarshal(shown, &all) != nil {
		return "", false
	}
	value := all["builders"].Value
	if value == nil || json.Unmarshal(*value, &setting) != nil {
		return "", false
	}
	return setting, true
}

// noMachines says whether a setting "builders" names no machine. It has machines,
// or files of machines behind an @, apart by semicolons or lines.
func (b *base) noMachines(setting string) bool {
	for _, one := range strings.FieldsFunc(setting, func(r rune) bool { return r == ';' || r == '\n' }) {
		one, _, _ = strings.Cut(one, "#")
		one = strings.Trim(one, blanks)
		if one == "" {
			continue
		}
		file, ok := strings.CutPrefix(one, "@")
		if !ok || !b.empty(file) {
			return false
		}
	}
	return true
}

// empty says whether a file of machines has none, or isn't there.
func (b *base) empty(file string) bool {
	lines, err := readLines(b.at(file))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	for _, line := range lines {
		if line, _, _ = strings.Cut(line, "#"); strings.Trim(line, blanks) != "" {
			return false
		}
	}
	return true
}

// configStamp tells apart the states of all files that nix reads its
// configuration from (nix.conf(5)). It is never empty.
func (b *base) configStamp() string {
	conf := os.Getenv("NIX_CONF_DIR")
	if conf == "" {
		conf = "/etc/nix"
	}
	todo := append([]string{filepath.Join(conf, "nix.conf")}, userConfigs()...)
	var stamp strings.Builder
	for n := 0; n < len(todo) && n < maxConfigFiles; n++ {
		file := todo[n]
		// Files of a store differ by their names alone.
		is, err := filepath.EvalSymlinks(b.at(file))
		if err != nil {
			fmt.Fprintf(&stamp, "%s -\n", file)
			continue
		}
		fi, err := os.Stat(is)
		if err != nil {
			fmt.Fprintf(&stamp, "%s -\n", is)
			continue
		}
		fmt.Fprintf(&stamp, "%s %d %d\n", is, fi.Size(), fi.ModTime().UnixNano())
		lines, err := readLines(b.at(file))
		if err != nil {
			continue
		}
		for _, line := range lines {
			f := strings.Fields(line)
			if len(f) != 2 || f[0] != "include" && f[0] != "!include" {
				continue
			}
			if !filepath.IsAbs(f[1]) {
				f[1] = filepath.Join(filepath.Dir(file), f[1])
			}
			todo = append(todo, f[1])
		}
	}
	return stamp.String()
}

// userConfigs are the files of the user that nix runs as.
func userConfigs() (files []string) {
	if list := os.Getenv("NIX_USER_CONF_FILES"); list != "" {
		return filepath.SplitList(list)
	}
	home := os.Getenv("HOME")
	if home == "" {
		home = rootHome
	}
	dirs := []string{filepath.Join(home, ".config")}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		dirs[0] = dir
	}
	if list := os.Getenv("XDG_CONFIG_DIRS"); list != "" {
		dirs = append(dirs, filepath.SplitList(list)...)
	} else {
		dirs = append(dirs, "/etc/xdg")
	}
	for _, dir := range dirs {
		files = append(files, filepath.Join(dir, "nix/nix.conf"))
	}
	return files
}

// readLines reads the lines of a file of at most maxConfigBytes: of a larger one
// the rest could say something else.
func readLines(file string) ([]string, error) {
	b, err := atomicfile.ReadAtMost(file, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("reading nix's configuration: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), nil
}
