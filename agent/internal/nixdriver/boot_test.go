package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// kernel gives a system what only a boot puts in place.
func (w *world) kernel(system, name, params string) {
	w.t.Helper()
	for file, to := range map[string]string{"kernel": "/k/" + name, "initrd": "/i", "kernel-modules": "/m"} {
		if err := os.Symlink(to, filepath.Join(w.root, system, file)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.write(filepath.Join(system, "kernel-params"), params)
}

func (w *world) write(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// bootable is a host that was booted with old by systemd-boot.
func bootable(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, "")
	w.kernel(old, "linux-1", "quiet panic=10")
	w.kernel(good, "linux-2", "quiet panic=10")
	for _, link := range []string{currentSystem, bootedSystem, systemProfile} {
		w.link(link, old)
	}
	w.program("bin/bootctl", "exit 0")
	w.write("/boot/loader/entries/nixos-generation-1.conf", "options init="+old+"/init quiet\n")
	w.write("/boot/loader/loader.conf", "default nixos-generation-1.conf\n")
	w.program(good+"/init", "exit 0")
	return w
}

func (w *world) boot(from, to string) driver.Boot {
	w.t.Helper()
	d, stop, err := driver.InProcess(NewNixOS(w.config()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer stop() //nolint:errcheck // It is over.
	b, err := driver.BootOf(w.t.Context(), d, fleet.System, from, to)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := b.Validate(); err != nil {
		w.t.Error(err)
	}
	return b
}

func TestBoot(t *testing.T) {
	w := bootable(t)
	b := w.boot(old, good)
	if b.Cannot != "" || b.Alone != "" || !slices.Equal(b.Parts, []string{"kernel (linux-1 runs, linux-2 is installed)"}) {
		t.Errorf("got %+v", b)
	}
	const (
		gcroots = "link /nix/var/nix/gcroots/fleet/"
		set     = "/bin/nix-env --profile /nix/var/nix/profiles/system --set "
		sync    = "sync /nix/store /nix/var/nix/profiles"
		once    = "/bin/bootctl in /boot/loader/entries boots once "
	)
	root := func(p string) string { return gcroots + filepath.Base(p) + " " + p }
	for _, c := range []struct {
		what string
		got  driver.Action
		want []string
	}{
		// The old system's own program makes the entries, and so stays what boots.
		{"activate", b.Activate, []string{root(old), root(good), set + good, sync, old + "/" + switchProgram + " boot", sync, once + good + "/init, and then " + old + "/init"}},
		{"commit", b.Commit, []string{set + good, sync, good + "/" + switchProgram + " boot", sync}},
		{"rollback", b.Rollback, []string{
			once, root(old), old + "/" + switchProgram + " test unless /run/current-system " + old,
			set + old, sync, old + "/" + switchProgram + " boot", sync,
		}},
	} {
		if diff := cmp.Diff(c.want, w.brief(c.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}

// grubMenu is GRUB's of a host that was booted with old.
const grubMenu = `load_env
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  save_env next_entry
else
  set default=0
fi
menuentry "NixOS" --class nixos {
  linux /kernels/x init=` + old + `/init quiet
}
`

// grub makes a host be one of GRUB's, with that menu.
func (w *world) grub(menu string) {
	w.t.Helper()
	w.program("bin/grub-editenv", "exit 0")
	w.write(grubDir+"/grub.cfg", menu)
	w.write(grubDir+"/grubenv", "")
	if err := os.RemoveAll(filepath.Join(w.root, "boot/loader")); err != nil {
		w.t.Fatal(err)
	}
}

// TestBootByGRUB: the same way, told to GRUB.
func TestBootByGRUB(t *testing.T) {
	w := bootable(t)
	w.grub(grubMenu)
	b := w.boot(old, good)
	want := driver.BootOnce{
		Loader: driver.LoaderGRUB, Program: filepath.Join(w.root, "bin/grub-editenv"), Entries: filepath.Join(w.root, grubDir),
		Stays: filepath.Join(old, initProgram), Init: filepath.Join(good, initProgram),
	}
	if steps := b.Activate.Steps; b.Cannot != "" || len(steps) == 0 || *steps[len(steps)-1].BootOnce != want {
		t.Errorf("got %+v", b)
	}
	want.Stays, want.Init = "", ""
	if steps := b.Rollback.Steps; len(steps) == 0 || *steps[0].BootOnce != want {
		t.Errorf("got %+v", b.Rollback)
	}
}

// TestBootNotBuilt: a system without what would be started is built again, and not tried
// for ever.
func TestBootNotBuilt(t *testing.T) {
	for _, program := range []string{initProgram, switchProgram} {
		w := bootable(t)
		if err := os.Remove(filepath.Join(w.root, good, program)); err != nil {
			t.Fatal(err)
		}
		if _, err := NewNixOS(w.config()).Boot(t.Context(), fleet.System, old, good); !errors.Is(err, driver.ErrNotBuilt) {
			t.Errorf("without %s: %v", program, err)
		}
	}
}

// TestNotBooted is what has a generation only switched to.
func TestNotBooted(t *testing.T) {
	for name, c := range map[string]struct {
		do            func(*world)
		cannot, alone string
		unneeded      bool
	}{
		"the same kernel": {unneeded: true, do: func(w *world) {
			if err := os.Remove(filepath.Join(w.root, good, "kernel")); err != nil {
				w.t.Fatal(err)
			}
			if err := os.Symlink("/k/linux-1", filepath.Join(w.root, good, "kernel")); err != nil {
				w.t.Fatal(err)
			}
		}},
		"what runs was not booted": {do: func(w *world) {
			w.program(dep+"/"+switchProgram, "exit 0")
			w.kernel(dep, "linux-0", "quiet panic=10")
			w.link(bootedSystem, dep)
		}, cannot: "never booted itself"},
		"another boot loader": {do: func(w *world) { w.write(variables+"/x", "") }, cannot: "not started by systemd-boot"},
		"systemd-boot":        {do: func(w *world) { w.write(filepath.Join(variables, loaderInfo), "") }},
		"bootctl set-default": {do: func(w *world) {
			w.write(filepath.Join(variables, loaderInfo), "")
			w.write(filepath.Join(variables, loaderEntry), "")
		}, cannot: "overrides what boots"},
		"no room": {do: func(w *world) {
			file := filepath.Join(w.root, "huge")
			w.write("huge", "")
			if err := errors.Join(os.Truncate(file, 1<<43), os.Remove(filepath.Join(w.root, good, "initrd")), os.Symlink(file, filepath.Join(w.root, good, "initrd"))); err != nil {
				w.t.Fatal(err)
			}
		}, cannot: "kernel and initrd take"},
		"something else boots": {do: func(w *world) { w.link(systemProfile, good) }, cannot: "not what boots"},
		"no bootctl": {do: func(w *world) {
			if err := os.Remove(filepath.Join(w.root, "bin/bootctl")); err != nil {
				w.t.Fatal(err)
			}
		}, cannot: "no bootctl"},
		"no loader at all": {do: func(w *world) {
			if err := os.RemoveAll(filepath.Join(w.root, "boot/loader")); err != nil {
				w.t.Fatal(err)
			}
		}, cannot: "no entry of what was booted"},
		"GRUB and no menu of its own": {do: func(w *world) { w.grub("set default=0\n") }, cannot: "does not boot a system once"},
		"GRUB with another's menu":    {do: func(w *world) { w.grub(strings.ReplaceAll(grubMenu, old, dep)) }, cannot: "GRUB has no entry of what was booted"},
		"GRUB without its program": {do: func(w *world) {
			w.grub(grubMenu)
			if err := os.Remove(filepath.Join(w.root, "bin/grub-editenv")); err != nil {
				w.t.Fatal(err)
			}
		}, cannot: "no grub-editenv"},
		"GRUB without an environment": {do: func(w *world) {
			w.grub(grubMenu)
			if err := os.Remove(filepath.Join(w.root, grubDir, "grubenv")); err != nil {
				w.t.Fatal(err)
			}
		}, cannot: "GRUB has no environment"},
		"GRUB with a saved default": {do: func(w *world) { w.grub(strings.Replace(grubMenu, "set default=0", `set default="${saved_entry}"`, 1)) }, cannot: "GRUB boots another entry by default"},
		"a default of several entries": {do: func(w *world) {
			w.write("/boot/loader/loader.conf", "default nixos-*\n")
			w.write("/boot/loader/entries/nixos-generation-2.conf", "options init="+good+"/init quiet\n")
		}, cannot: "is not surely what systemd-boot boots by default"},
		"GRUB on RAID":           {do: func(w *world) { w.grub(grubMenu); w.raid = true }, cannot: "of RAID"},
		"GRUB":                   {do: func(w *world) { w.grub(grubMenu) }},
		"GRUB on other firmware": {do: func(w *world) { w.grub(grubMenu); w.write(variables+"/x", "") }},
		"GRUB of another day": {do: func(w *world) {
			w.grub(grubMenu)
			w.write(filepath.Join(variables, loaderInfo), "")
			w.write("/boot/loader/entries/nixos-generation-1.conf", "options init="+old+"/init quiet\n")
			w.write("/boot/loader/loader.conf", "default nixos-generation-1.conf\n")
			w.raid = true
		}},
		"entries of something else": {do: func(w *world) {
			w.write("/boot/loader/entries/nixos-generation-1.conf", "options init=/other/init\n")
		}, cannot: "no entry of what was booted"},
		"an entry elsewhere": {do: func(w *world) {
			w.write("/efi/loader/entries/x.conf", "options init="+old+"/init\n")
			w.write("/efi/loader/loader.conf", "default x.conf\n")
			if err := os.RemoveAll(filepath.Join(w.root, "boot/loader")); err != nil {
				w.t.Fatal(err)
			}
		}},
		"no panic=":   {do: func(w *world) { w.write(good+"/kernel-params", "quiet panic_on_oops=1") }, alone: "no panic="},
		"panic=0":     {do: func(w *world) { w.write(good+"/kernel-params", "panic=0") }, alone: "no panic="},
		"panic=never": {do: func(w *world) { w.write(good+"/kernel-params", "panic=never") }, alone: "no panic="},
		"at once":     {do: func(w *world) { w.write(good+"/kernel-params", "panic=-1") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := bootable(t)
			c.do(w)
			b := w.boot(old, good)
			if (b.Cannot == "") != (c.cannot == "") || !strings.Contains(b.Cannot, c.cannot) ||
				(b.Alone == "") != (c.alone == "") || !strings.Contains(b.Alone, c.alone) || b.Activate.IsZero() != (c.cannot != "" || c.unneeded) || (len(b.Parts) == 0) != c.unneeded {
				t.Errorf("got %+v", b)
			}
		})
	}
}
