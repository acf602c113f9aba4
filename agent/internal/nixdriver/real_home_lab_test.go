//go:build lab

package nixdriver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// realUser is made on the host of the lab.
const realUser = "real"

const realHome fleet.ProfileName = "home/" + realUser

// realActivate is what an activate of home-manager does: it wants its user, sets the
// profile unless it is told not to, makes its links, and says last that it runs.
const realActivate = `#!/bin/sh
set -eu
[ "$USER" = "$(id -un)" ] && [ "$HOME" = /home/$USER ] && [ -z "${NIX_PATH-}" ]
nix-env --query >/dev/null 2>&1 || true
[ "${1-} ${2-}" = "--driver-version 1" ] || nix-env --profile $HOME/.local/state/nix/profiles/home-manager --set OUT
ln -sfn "$(readlink -f OUT/home-files)/.labrc" $HOME/.labrc
VERDICT
mkdir -p $HOME/.local/state/home-manager/gcroots
nix-store --realise OUT --add-root $HOME/.local/state/home-manager/gcroots/current-home >/dev/null
`

// realGeneration is a flake with a generation.
func realGeneration(version, verdict string, keepsProfile bool) string {
	script := strings.NewReplacer("VERDICT", verdict, "$", `\$`, `"`, `\"`, "\n", `\n`, "OUT", "@OUT@").Replace(realActivate)
	more := ""
	if keepsProfile {
		more = "echo 1 > $out/gen-version;"
	}
	return `{
  outputs = { self }: let
    make = name: env: script: derivation ({
      inherit name; system = builtins.currentSystem or "` + nixSystem() + `"; builder = "/bin/sh"; args = [ "-euc" script ]; PATH = "/usr/bin:/bin";
    } // env);
    files = make "home-manager-files" { } "mkdir $out; echo ` + version + ` > $out/.labrc";
  in {
    a.good = make "home-manager-generation" { inherit files; activate = "` + script + `"; }
      "mkdir $out; ln -s $files $out/home-files; ` + more + ` printf %s \"$activate\" | sed s,@OUT@,$out,g > $out/activate; chmod +x $out/activate";
  };
}
`
}

// ofUser gives a flake's repository to the user: nix reads nobody else's.
func ofUser(t *testing.T, f fleet.FlakeSource) fleet.FlakeSource {
	t.Helper()
	dir, _, _ := strings.Cut(strings.TrimPrefix(f.URL, "git+file://"), "?")
	command(t, "chown", "-R", realUser, dir)
	return f
}

// realRun carries an action out as the agent's runner does.
func realRun(t *testing.T, a driver.Action) error {
	t.Helper()
	for _, s := range a.Steps {
		switch {
		case s.Link != nil:
			_ = os.Remove(s.Link.Path)
			if err := os.Symlink(s.Link.Target, s.Link.Path); err != nil {
				return err
			}
		case s.Exec != nil:
			cmd := exec.CommandContext(t.Context(), s.Exec.Argv[0], s.Exec.Argv[1:]...)
			cmd.Env, cmd.Dir = s.Exec.Env, s.Exec.Dir
			cred, err := contain.Credential(s.Exec.User)
			if err != nil {
				return err
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
			out, err := cmd.CombinedOutput()
			t.Logf("%s: %s", s.Exec.Argv[0], out)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// TestRealHome: both kinds of generations, there and back, as their user.
func TestRealHome(t *testing.T) {
	command(t, "useradd", "-m", realUser)
	if os.Getenv("NIX_REMOTE") == "" {
		daemon := exec.CommandContext(t.Context(), "nix-daemon")
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	}
	for range 100 {
		if fi, err := os.Stat(daemonSocket); err == nil && fi.Mode().Type() == os.ModeSocket {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	d := NewHome(Config{})
	home := "/home/" + realUser
	build := func(version, verdict string, keepsProfile bool) string {
		t.Helper()
		src := ofUser(t, realTree(t, realGeneration(version, verdict, keepsProfile)))
		var said []string
		path, err := d.Build(t.Context(), driver.BuildRequest{Profile: realHome, Source: fleet.Source{Driver: fleet.DriverHome, Flake: &src}},
			func(p driver.Progress) { said = append(said, p.Message) })
		if err != nil || d.keepsProfile(path) != keepsProfile {
			t.Fatalf("%s, %v: %q", path, err, said)
		}
		if all := strings.Join(said, "\n"); strings.Contains(all, "is done as root") {
			t.Errorf("not built as the user: %s", all)
		}
		return path
	}
	is := func(version, generation, profiled string) {
		t.Helper()
		text, _ := os.ReadFile(filepath.Join(home, ".labrc"))
		_, st, err := d.fit(realHome)
		if strings.TrimSpace(string(text)) != version || st.current != generation || st.profiled != profiled || err != nil {
			t.Errorf("%q, %+v, %v; want %s, %s, %s", text, st, err, version, generation, profiled)
		}
		if out := command(t, "find", home, "!", "-user", realUser); out != "" {
			t.Errorf("not the user's: %s", out)
		}
	}
	way := func(from, to string) driver.Activation {
		t.Helper()
		a, err := d.Activation(t.Context(), realHome, from, to)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	good := func(a driver.Action) {
		t.Helper()
		if err := realRun(t, a); err != nil {
			t.Fatal(err)
		}
	}

	one, broken, old := build("one", "", true), build("two", "exit 1", true), build("three", "", false)
	if fi, err := os.Stat(home + "/.cache/nix"); err != nil || ownerOf(fi) == 0 {
		t.Errorf("its nix left no cache: %v", err)
	}
	first := way("", one)
	good(first.Activate)
	is("one", one, "")
	good(first.Rollback)
	is("", "", "")
	good(first.Rollback) // More than once.
	good(first.Activate)
	good(first.Commit)
	is("one", one, one)

	next := way(one, broken)
	if err := realRun(t, next.Activate); err == nil {
		t.Error("what fails does not")
	}
	is("two", one, one)
	good(next.Rollback)
	is("one", one, one)

	last := way(one, old)
	good(last.Activate)
	is("three", old, old)
	if dr, err := d.Drift(t.Context(), realHome, one); err != nil || dr != (driver.Drift{Runs: old, Boots: old}) {
		t.Errorf("drift %+v, %v", dr, err)
	}
	good(last.Rollback)
	is("one", one, one)
	good(last.Activate)
	if path, err := d.Current(t.Context(), realHome); path != old || err != nil {
		t.Errorf("runs %s, %v", path, err)
	}
	leave := way(old, "")
	good(leave.Activate)
	is("", "", "")

	// A user's word counts for nothing that is pinned.
	src := ofUser(t, realTree(t, realGeneration("four", "", true)))
	src.OutPath = one
	command(t, "rm", filepath.Join(rootsDir, filepath.Base(one)))
	command(t, "nix-store", "--delete", "--ignore-liveness", one)
	if _, err := d.Build(t.Context(), driver.BuildRequest{Profile: realHome, Source: fleet.Source{Driver: fleet.DriverHome, Flake: &src}}, nil); !errors.Is(err, driver.ErrSource) {
		t.Errorf("got %v", err)
	}
}
