package nixdriver

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// FuzzPartsOf: whatever the script of a system is, the step that activates it can be
// carried out, and what is done after a part is of the script's own lines, past that part.
func FuzzPartsOf(f *testing.F) {
	text, err := os.ReadFile(activateScript)
	if err != nil {
		f.Fatal(err)
	}
	begin := shebang + storeDir + "/bash/bin/bash\n" + cdRoot + "\n" + saysHomebrew
	for _, s := range []string{
		string(text), "", "#!/bin/sh\n", saysUserAgents, begin, begin + "\n", begin + "\n" + `if [ -f "/bin/brew" ]; then` + "\nfi\n" + linksSystem,
		begin + "\n" + `if [ -f "/bin/brew" ]; then` + "\nfi\n\x00\n" + linksSystem,
		strings.Replace(begin, "/bash/", "/../", 1) + "\n" + `if [ -f "/bin/brew" ]; then` + "\nfi\n" + linksSystem,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		const program = macNew + "/" + activateName
		parts := partsOf(program, script)
		x := driver.Exec{Argv: []string{program}, Parts: parts}
		if err := x.Validate(); err != nil {
			t.Fatalf("%v, of %q", err, script)
		}
		lines := strings.Split(script, "\n")
		for _, p := range parts {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, p.Heading) }) {
				t.Errorf("%q never says %q", script, p.Heading)
			}
			if p.Heading != homebrewHeading {
				continue
			}
			rest := strings.Split(p.Rest[2], "\n")
			if !strings.HasPrefix(p.Rest[0], storeDir+"/") || !slices.Contains(rest, "set -u") || !slices.Contains(rest, linksSystem) || slices.Contains(rest, saysHomebrew) {
				t.Errorf("%q after Homebrew, of %q", p.Rest, script)
			}
			for _, l := range rest {
				if l != "set -u" && !slices.Contains(lines, l) {
					t.Errorf("%q is no line of %q", l, script)
				}
			}
		}
	})
}
