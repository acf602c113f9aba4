package nixdriver

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// What a Mac can be without. nix-darwin's activate ends at the first command that fails
// ("set -e"), and links what runs last, so that a cask that can't be downloaded would take
// the whole system back. Known from the sources of nix-darwin of 2026: what it says as it
// begins a part, the order of its parts, and the form of its script. Where a script has
// another form, nothing of it can be done without, and a failure goes back.
const (
	homebrewHeading   = "Homebrew bundle..."
	userAgentsHeading = "setting up user launchd services..."
	// What the parts after the user's agents say first, of those that say anything.
	nixDaemonHeading = "reloading nix-daemon..."
	fontsHeading     = "setting up /Library/Fonts/Nix Fonts..."
	nvramHeading     = "setting nvram variables..."
)

// afterUserAgents are the headings after that of the user's agents.
var afterUserAgents = []string{
	nixDaemonHeading, "configuring time...", "configuring networking...", "configuring application firewall...",
	"configuring power...", "configuring keyboard...", fontsHeading, nvramHeading, homebrewHeading,
}

// Lines of the script of activate.
const (
	// cdRoot ends what its beginning sets up: the environment, and what fails it.
	cdRoot = "cd /"
	// saysHomebrew and saysUserAgents print the headings.
	saysHomebrew   = `echo >&2 "` + homebrewHeading + `"`
	saysUserAgents = `echo "` + userAgentsHeading + `"`
	// linksSystem makes what it activates what runs.
	linksSystem = `ln -sfn "$(readlink -f "$systemConfig")" /run/current-system`
	// shebang begins its first line; the interpreter follows.
	shebang = "#!/usr/bin/env -i "
)

// dispensable are the parts of a system's activate that a Mac can be without; none where
// it can't be read.
func (d *Darwin) dispensable(path string) (parts []driver.Part) {
	text, err := atomicfile.ReadAtMost(filepath.Join(d.at(path), activateName), maxActivateBytes)
	if err != nil {
		return nil
	}
	return partsOf(filepath.Join(path, activateName), string(text))
}

// partsOf are the parts of a program, of which text is all.
func partsOf(program, text string) (parts []driver.Part) {
	lines := strings.Split(text, "\n")
	if slices.Contains(lines, saysUserAgents) {
		// The whole again: it goes past what it has put in place already, so that an
		// agent that could not be loaded does not keep it from the rest, and says itself
		// that all is done.
		parts = append(parts, driver.Part{
			Name: "a user's LaunchAgents", Heading: userAgentsHeading, Ends: afterUserAgents,
			Rest: []string{program},
		})
	}
	if rest := afterHomebrew(lines); rest != nil {
		parts = append(parts, driver.Part{Name: "Homebrew", Heading: homebrewHeading, Rest: rest})
	}
	// What can't be an argument, say, must not keep the system from being activated.
	return slices.DeleteFunc(parts, func(p driver.Part) bool { return p.Validate() != nil })
}

// afterHomebrew is a program that does what an activate does after Homebrew, the App
// Store's apps among it: what the host's own configuration adds at the end, and the link
// that says what runs. It is the script's own text, with its beginning, and refuses
// variables that only what is left out would have set. nil where it can't be told apart.
func afterHomebrew(lines []string) []string {
	interpreter, ok := strings.CutPrefix(lines[0], shebang)
	begun := slices.Index(lines, cdRoot)
	brew := slices.Index(lines, saysHomebrew)
	if !ok || !strings.HasPrefix(interpreter, storeDir+"/") || strings.ContainsAny(interpreter, " \t") || begun < 0 || brew < begun {
		return nil
	}
	part := lines[brew+1:]
	if len(part) == 0 || !strings.HasPrefix(part[0], `if [ -f "`) || !strings.HasSuffix(part[0], `/bin/brew" ]; then`) {
		return nil
	}
	end := slices.Index(part, "fi")
	if end < 0 || !slices.Contains(part[end:], linksSystem) || slices.Contains(part, saysHomebrew) {
		return nil
	}
	rest := strings.Join(slices.Concat(lines[1:begun+1], []string{"set -u"}, part[end+1:]), "\n")
	return []string{interpreter, "-c", rest, activateName}
}
