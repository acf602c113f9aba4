//go:build linux

package main

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const (
	// flakeDir is where the flake is on both hosts.
	flakeDir = "/srv/flake"
	// attr of the system of the agent's host.
	attr = "nixosConfigurations." + webName + ".config.system.build.toplevel"
)

//go:embed flake
var flakeFiles embed.FS

// release is what a commit of the flake has for the agent's host.
type release struct {
	// version is what its web service says; a new one where it is empty.
	version string
	// settings are read by switch-to-configuration, which see.
	settings map[string]string
	// units besides the web service, by name.
	units map[string]string
	// files besides the units, by their place below the system's etc.
	files map[string]string
	// tool has the programs of the flake's package, by name; as they were where it
	// is empty.
	tool map[string]string
	// home has the files of the user's home, by their place; as it was where it is
	// empty. homeSettings are read by its activate, which see.
	home, homeSettings map[string]string
}

// webUnit is a service that says which version runs.
const webUnit = `[Unit]
Description=web %[1]s

[Service]
ExecStart=/bin/sh -c 'echo %[1]s >/run/lab-web; exec sleep infinity'
`

// system is one that was built, or would be.
type system struct {
	toplevel, version string
}

// commit makes a commit of the flake and says what it would build.
func (w *world) commit(ctx context.Context, r release) (system, error) {
	if r.version == "" {
		w.versions++
		r.version = fmt.Sprintf("v%d", w.versions)
	}
	dir := filepath.Join(w.lab.Dir(), "flake")
	machine := filepath.Join(dir, "machines", webName)
	if err := os.RemoveAll(machine); err != nil {
		return system{}, err
	}
	files := map[string]string{
		"system.nix": fmt.Sprintf("%q\n", nixSystem()),
		"machines/" + webName + "/etc/systemd/system/lab-web.service": fmt.Sprintf(webUnit, r.version),
	}
	for name, text := range r.tool {
		files["tool/"+name] = text
	}
	for name, text := range r.units {
		files["machines/"+webName+"/etc/systemd/system/"+name] = text
	}
	for name, text := range r.files {
		files["machines/"+webName+"/etc/"+name] = text
	}
	files["machines/"+webName+"/settings"] = "version=" + r.version + "\n" + settingsText(r.settings)
	if len(r.home) > 0 {
		home := "homes/" + homeUser + "@" + nixSystem()
		if err := os.RemoveAll(filepath.Join(dir, home)); err != nil {
			return system{}, err
		}
		for name, text := range r.home {
			files[home+"/files/"+name] = text
		}
		files[home+"/settings"] = settingsText(r.homeSettings)
	}
	for _, name := range []string{"flake.nix", "build.sh", "switch-to-configuration", "home-activate"} {
		b, err := flakeFiles.ReadFile("flake/" + name)
		if err != nil {
			return system{}, err
		}
		files[name] = string(b)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return system{}, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return system{}, err
		}
	}
	if _, err := w.ops.Shell(ctx, `cd `+flakeDir+`
[ -d .git ] || { git init -q -b main; git config user.name lab; git config user.email lab@localhost; }
git add -A
git commit -q --allow-empty -m `+r.version); err != nil {
		return system{}, err
	}
	if w.web != nil {
		if err := w.web.Refresh(ctx, flakeDir); err != nil {
			return system{}, err
		}
	}
	// Evaluated, not built.
	out, err := w.ops.Run(ctx, "nix", "eval", "--raw", "git+file://"+flakeDir+"#"+attr+".outPath")
	return system{toplevel: strings.TrimSpace(out), version: r.version}, err
}

// settingsText is what a shell reads.
func settingsText(settings map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s=%s\n", k, settings[k])
	}
	return b.String()
}

// nixSystem is Nix's name of this machine's kind.
func nixSystem() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}
