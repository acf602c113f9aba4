package nixdriver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// activateScript is one in the form of nix-darwin's of 2026, with much less in it.
const activateScript = "testdata/darwin/activate"

func names(parts []driver.Part) (names []string) {
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return names
}

// A script of another form is one of which nothing can be done without: then a failure
// goes back.
func TestDispensable(t *testing.T) {
	text, err := os.ReadFile(activateScript)
	if err != nil {
		t.Fatal(err)
	}
	both := []string{"a user's LaunchAgents", "Homebrew"}
	agents := both[:1]
	for name, tt := range map[string]struct {
		old, by string
		want    []string
	}{
		"as it is":                     {"", "", both},
		"without Homebrew":             {saysHomebrew, "", agents},
		"without users' agents":        {saysUserAgents, "", both[1:]},
		"another heading":              {homebrewHeading, "Brewing...", agents},
		"another beginning":            {"\ncd /\n", "\ncd /tmp\n", agents},
		"another interpreter":          {shebang + storeDir, shebang + "/usr/local", agents},
		"another first line":           {shebang, "#!", agents},
		"another condition":            {`/bin/brew" ]; then`, `/bin/brew" ] && true; then`, agents},
		"no end":                       {"\nfi\n", "\n  fi\n", agents},
		"another link":                 {linksSystem, "ln -s x /run/current-system", agents},
		"twice":                        {"# home-manager, say.", saysHomebrew, agents},
		"longer than an argument is":   {"# home-manager, say.", strings.Repeat("#", driver.MaxStringBytes), agents},
		"nothing, as other systems do": {string(text), "#!/bin/sh\nexit 0\n", nil},
		"no text":                      {string(text), "\x00\xff", nil},
		"empty":                        {string(text), "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newMac(t)
			w.program(macNew+"/activate", "")
			file := filepath.Join(w.root, macNew, "activate")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), tt.old, tt.by)), 0o755); err != nil { //nolint:gosec // A program.
				t.Fatal(err)
			}
			if tt.old == "" {
				if err := os.WriteFile(file, text, 0o755); err != nil { //nolint:gosec // As above.
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(tt.want, names(d.dispensable(macNew))); d != "" {
				t.Error(d)
			}
			w.link("run/current-system", macOther)
			w.link(systemProfile, macOther)
			a, err := d.Activation(t.Context(), fleet.System, macOther, macNew)
			if err != nil || a.Validate() != nil {
				t.Errorf("%v, %v", err, a.Validate())
			}
		})
	}
	w, d := newMac(t)
	if err := os.Remove(filepath.Join(w.root, macNew, "activate")); err != nil {
		t.Fatal(err)
	}
	if parts := d.dispensable(macNew); parts != nil {
		t.Errorf("of no script: %v", parts)
	}
}

// TestDarwinDegraded runs such a script, and what is done where it fails: the host is on
// the new system with all that it can't be without, or the activation has failed.
func TestDarwinDegraded(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(activateScript)
	if err != nil {
		t.Fatal(err)
	}
	const bothFailed = "a user's LaunchAgents failed (exit code 1), Homebrew failed (exit code 4)"
	for name, tt := range map[string]struct {
		env      []string
		brew     string
		outcome  execute.Outcome
		degraded string
	}{
		"all well":                      {nil, "exit 0", execute.OutcomeOK, ""},
		"Homebrew":                      {nil, "echo Updating Homebrew...; echo Installing x has failed!; exit 4", execute.OutcomeOK, "Homebrew failed (exit code 4)"},
		"Homebrew, without a word":      {nil, "exit 4", execute.OutcomeOK, "Homebrew failed (exit code 4)"},
		"a user's agent":                {[]string{"FAIL_AGENT=yes"}, "exit 0", execute.OutcomeOK, "a user's LaunchAgents failed (exit code 1)"},
		"both":                          {[]string{"FAIL_AGENT=yes"}, "exit 4", execute.OutcomeOK, bothFailed},
		"before both":                   {[]string{"FAIL_ETC=yes"}, "exit 0", execute.OutcomeExit, ""},
		"between them":                  {[]string{"FAIL_NETWORK=yes"}, "exit 0", execute.OutcomeExit, ""},
		"a check":                       {[]string{"NOBODY=yes"}, "exit 0", execute.OutcomeExit, ""},
		"after Homebrew":                {[]string{"FAIL_POST=yes"}, "exit 0", execute.OutcomeExit, ""},
		"Homebrew, and after it":        {[]string{"FAIL_POST=yes"}, "exit 4", execute.OutcomeExit, ""},
		"what is after it wants before": {[]string{"USE_ABOVE=yes"}, "exit 4", execute.OutcomeExit, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, d := newMac(t)
			dir := t.TempDir()
			w.program("opt/brew", "exit 0")
			w.program("opt/homebrew/bin/brew", tt.brew)
			bash := filepath.Join(w.root, "bash")
			if err := os.WriteFile(bash, []byte("#!/bin/sh\nexec bash \"$@\"\n"), 0o755); err != nil { //nolint:gosec // A program.
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(w.root, macNew, "activate"), text, 0o755); err != nil { //nolint:gosec // As above.
				t.Fatal(err)
			}
			step, err := d.activate(macNew)
			if err != nil {
				t.Fatal(err)
			}
			// Below this test's own root, and with an environment that it hands over.
			here := strings.NewReplacer(
				"/run/current-system", dir+"/current", "/opt/homebrew", w.root+"/opt/homebrew", shebang+storeDir, "#!"+storeDir,
				"systemConfig="+macNew, "systemConfig="+w.root+macNew, "/nix/var/nix/gcroots", dir+"/roots",
				storeDir+"/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rb-bash-5.3/bin/bash", bash, storeDir+"/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rc-coreutils-9.7/bin:", "",
			)
			if err := os.WriteFile(filepath.Join(w.root, macNew, "activate"), []byte(here.Replace(strings.Replace(string(text), shebang, "#!", 1))), 0o755); err != nil { //nolint:gosec // As above.
				t.Fatal(err)
			}
			x := step.Exec
			x.Argv = []string{bash, filepath.Join(w.root, macNew, "activate")}
			x.Env = append(append(x.Env, "AGENT="+dir+"/agent.plist"), tt.env...)
			for i := range x.Parts {
				rest := x.Parts[i].Rest
				for j := range rest {
					rest[j] = here.Replace(rest[j])
				}
				if len(rest) == 1 {
					x.Parts[i].Rest = x.Argv
				}
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			e, err := execute.New(filepath.Join(dir, "runs"), []string{self, asRunner}, execute.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Start(t.Context(), "a", driver.Action{Steps: []driver.Step{step}, Deadline: d.config.Deadline}, nil); err != nil {
				t.Fatal(err)
			}
			res, err := e.Wait(t.Context(), "a")
			log, _ := os.ReadFile(e.Log("a"))
			if err != nil || res.Outcome != tt.outcome || res.Degraded != tt.degraded {
				t.Errorf("%+v, %v; it said:\n%s", res, err, log)
			}
			to, err := os.Readlink(dir + "/current")
			if linked := err == nil && to == filepath.Join(w.root, macNew); linked != (tt.outcome == execute.OutcomeOK) {
				t.Errorf("linked %t to %q, %v; it said:\n%s", linked, to, err, log)
			}
		})
	}
}

// asRunner is what the test binary is as a runner of actions.
const asRunner = "run-action"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asRunner {
		os.Exit(execute.RunAction(os.Args[2]))
	}
	os.Exit(m.Run())
}
