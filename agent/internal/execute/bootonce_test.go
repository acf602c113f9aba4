package execute

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// TestBootOnce: the entry is found when its turn comes, by what the steps before made; a
// system without one is not booted.
func TestBootOnce(t *testing.T) {
	dir := t.TempDir()
	program, said, entries := filepath.Join(dir, "bootctl"), filepath.Join(dir, "said"), filepath.Join(dir, "entries")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s\\n' \"$1 <$2>\" >>'"+said+"'\n[ -n \"$2\" ]\n"), 0o700); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	once := func(init string) driver.Step {
		return driver.Step{BootOnce: &driver.BootOnce{Program: program, Entries: entries, Stays: "/stays/init", Init: init}}
	}
	e := executor(t, filepath.Join(dir, "runs"))
	// Its own last step fails, as bootctl does where there is nothing to take back.
	steps := []driver.Step{sh(`mkdir "$1"
echo options init=/a/init >"$1/a.conf"
echo options init=/stays/init >"$1/b.conf"
echo default b.conf >"$1/../loader.conf"`, entries), once("/a/init"), once("")}
	if err := e.Start(t.Context(), "one", action(time.Minute, steps...), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "one"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if b, err := os.ReadFile(said); err != nil || string(b) != "set-oneshot <a.conf>\nset-oneshot <>\n" {
		t.Errorf("it was told %q, %v", b, err)
	}
	if err := e.Start(t.Context(), "two", action(time.Minute, once("/b/init")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "two"); res.Outcome != OutcomeError || !strings.Contains(res.Message, "no boot entry starts it: /b/init") {
		t.Errorf("got %+v", res)
	}
	// What is to stay does not, as where the loader's entries are limited.
	if err := os.Remove(filepath.Join(entries, "b.conf")); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), "three", action(time.Minute, once("/a/init")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "three"); res.Outcome != OutcomeError || !strings.Contains(res.Message, "/stays/init would not boot afterwards") {
		t.Errorf("got %+v", res)
	}
}

// TestBootOnceByGRUB: the same by its environment, with what the menu has then.
func TestBootOnceByGRUB(t *testing.T) {
	dir := t.TempDir()
	program, said := filepath.Join(dir, "grub-editenv"), filepath.Join(dir, "said")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s\\n' \"$*\" >>'"+said+"'\n"), 0o700); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	once := func(init string) driver.Step {
		return driver.Step{BootOnce: &driver.BootOnce{Loader: driver.LoaderGRUB, Program: program, Entries: dir, Stays: "/stays/init", Init: init}}
	}
	e := executor(t, filepath.Join(dir, "runs"))
	menu := sh(`cat >"$1/grub.cfg" <<EOF
set default=0
menuentry "NixOS" {
linux /k init=/stays/init
}
submenu "All" {
menuentry "a b" {
linux /k init=/a/init
}
}
EOF`, dir)
	if err := e.Start(t.Context(), "one", action(time.Minute, menu, once("/a/init"), once("")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "one"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	env := filepath.Join(dir, "grubenv")
	if b, err := os.ReadFile(said); err != nil || string(b) != env+" set next_entry=All>a b\n"+env+" unset next_entry\n" {
		t.Errorf("it was told %q, %v", b, err)
	}
	if err := e.Start(t.Context(), "two", action(time.Minute, sh(`sed -i s/default=0/default=1/ "$1/grub.cfg"`, dir), once("/a/init")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "two"); res.Outcome != OutcomeError || !strings.Contains(res.Message, "/stays/init would not boot afterwards") {
		t.Errorf("got %+v", res)
	}
}
