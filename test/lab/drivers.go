//go:build linux

package main

import (
	"context"
	"fmt"
	"regexp"
)

const (
	// driversDir has the drivers' tests under the build tag lab.
	driversDir = "agent/internal/nixdriver"
	// driversTest is the program of these tests.
	driversTest = "nixdriver.test"
)

func setUpDrivers(ctx context.Context, w *world) error {
	if err := w.boot(ctx, hosts{}); err != nil {
		return err
	}
	return w.compile(ctx, driversTest, "./"+driversDir, "test", "-c", "-tags", "lab")
}

// hostTest is a test under the build tag lab, and what it shows.
type hostTest struct{ name, shows string }

// driverTests are the tests and what each shows. A test of this package compares
// them with those that there are.
var driverTests = []hostTest{
	{"TestRealBuild", "built and a root; another tree, another out path and a broken builder are the source's fault, a killed builder and a missing repository are not"},
	{"TestRealManifest", "a closure that is not as in its manifest is refused"},
	{"TestRealRepair", "a file that a power loss emptied is found and built again, also where its derivation is empty too"},
	{"TestRealHome", "generations of home-manager with and without gen-version: built by a user's nix through the daemon, activated, gone back from, and gone back from to nothing, as that user; nothing in the home is root's"},
	{"TestRealTrees", "a tree of the source that a power loss emptied is fetched anew"},
}

func driverScenarios() (list []scenario) {
	for _, t := range driverTests {
		list = append(list, scenario{t.name, t.shows, func(ctx context.Context, w *world) error { return w.driverTest(ctx, t.name) }})
	}
	return list
}

// driverTest runs one of the tests against the host's nix and its store.
func (w *world) driverTest(ctx context.Context, name string) error {
	out, err := w.web.Run(ctx, driversTest, "-test.v", "-test.run", "^"+name+"$")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return passed(out, name)
}

// passed checks that a test ran and was good: a program of tests is content with
// none, and with those that are skipped.
func passed(out, name string) error {
	if !regexp.MustCompile(`(?m)^--- PASS: ` + regexp.QuoteMeta(name) + ` `).MatchString(out) {
		return fmt.Errorf("%s did not run to a good end:\n%s", name, out)
	}
	return nil
}
