package driver_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

func action(steps ...driver.Step) driver.Action {
	return driver.Action{Steps: steps, Deadline: time.Minute}
}

func execStep(f func(*driver.Exec)) driver.Step {
	e := &driver.Exec{Argv: []string{"/bin/true", "x"}, Env: []string{"A=b"}, User: "somebody", Dir: "/", OKCodes: []int{4}}
	f(e)
	return driver.Step{Exec: e}
}

func linkStep(path, target string) driver.Step {
	return driver.Step{Link: &driver.Link{Path: path, Target: target}}
}

func syncStep(paths ...string) driver.Step {
	return driver.Step{Sync: &driver.Sync{Paths: paths}}
}

func bootStep(program, entries, init string) driver.Step {
	return driver.Step{BootOnce: &driver.BootOnce{Program: program, Entries: entries, Stays: "/stays/init", Init: init}}
}

func TestValidate(t *testing.T) {
	good := execStep(func(*driver.Exec) {})
	for _, c := range []struct {
		name   string
		action driver.Action
		ok     bool
	}{
		{"nothing", driver.Action{}, true},
		{"program and links", action(good, linkStep("/a", "/b"), linkStep("/a", "")), true},
		{"no deadline", driver.Action{Steps: []driver.Step{good}}, false},
		{"negative deadline", driver.Action{Deadline: -1}, false},
		{"endless", driver.Action{Steps: []driver.Step{good}, Deadline: math.MaxInt64}, false},
		{"many steps", action(make([]driver.Step, driver.MaxSteps+1)...), false},
		{"empty step", action(driver.Step{}), false},
		{"both", action(driver.Step{Exec: good.Exec, Link: &driver.Link{Path: "/a"}}), false},
		{"no program", action(execStep(func(e *driver.Exec) { e.Argv = nil })), false},
		{"relative program", action(execStep(func(e *driver.Exec) { e.Argv[0] = "true" })), false},
		{"dots in program", action(execStep(func(e *driver.Exec) { e.Argv[0] = "/bin/../true" })), false},
		{"NUL in program", action(execStep(func(e *driver.Exec) { e.Argv[0] = "/a\x00b" })), false},
		{"NUL in argument", action(execStep(func(e *driver.Exec) { e.Argv[1] = "a\x00b" })), false},
		{"NUL in user", action(execStep(func(e *driver.Exec) { e.User = "a\x00b" })), false},
		{"many arguments", action(execStep(func(e *driver.Exec) { e.Argv = append(e.Argv, make([]string, driver.MaxArgs)...) })), false},
		{"huge argument", action(execStep(func(e *driver.Exec) { e.Argv[1] = strings.Repeat("x", driver.MaxStringBytes+1) })), false},
		{"huge in all", action(execStep(func(e *driver.Exec) {
			for range 20 {
				e.Argv = append(e.Argv, strings.Repeat("x", driver.MaxStringBytes))
			}
		})), false},
		{"no variable", action(execStep(func(e *driver.Exec) { e.Env = []string{"x"} })), false},
		{"nameless variable", action(execStep(func(e *driver.Exec) { e.Env = []string{"=x"} })), false},
		{"relative directory", action(execStep(func(e *driver.Exec) { e.Dir = "x" })), false},
		{"exit code", action(execStep(func(e *driver.Exec) { e.OKCodes = []int{256} })), false},
		{"busy without an exit code", action(execStep(func(e *driver.Exec) { e.BusyCodes = []int{0} })), false},
		{"exit code with two meanings", action(execStep(func(e *driver.Exec) { e.BusyCodes = []int{4} })), false},
		{"failed units that are fine anyway", action(execStep(func(e *driver.Exec) { e.FailedUnitsCode = 4 })), false},
		{"exit code of failed units", action(execStep(func(e *driver.Exec) { e.FailedUnitsCode = -1 })), false},
		{"many exit codes", action(execStep(func(e *driver.Exec) { e.BusyCodes = make([]int, driver.MaxCodes+1) })), false},
		{"meaning of no exit code", action(execStep(func(e *driver.Exec) { e.Meanings = map[int]string{300: "x"} })), false},
		{"long meaning", action(execStep(func(e *driver.Exec) {
			e.Meanings = map[int]string{1: strings.Repeat("x", driver.MaxStringBytes+1)}
		})), false},
		{"condition", action(execStep(func(e *driver.Exec) { e.Unless = &driver.Link{Path: "/a", Target: "/b"} })), true},
		{"condition without target", action(execStep(func(e *driver.Exec) { e.Unless = &driver.Link{Path: "/a"} })), false},
		{"relative condition", action(execStep(func(e *driver.Exec) { e.Unless = &driver.Link{Path: "a", Target: "/b"} })), false},
		{"parts", action(execStep(func(e *driver.Exec) {
			e.Parts = []driver.Part{{Name: "brew", Heading: "brew...", Ends: []string{"x..."}, Rest: []string{"/bin/sh", "-c", "a\nb"}}}
		})), true},
		{"a part without the rest", action(execStep(func(e *driver.Exec) { e.Parts = []driver.Part{{Name: "x", Heading: "x..."}} })), false},
		{"a part of a relative program", action(execStep(func(e *driver.Exec) { e.Parts = []driver.Part{{Name: "x", Heading: "x...", Rest: []string{"sh"}}} })), false},
		{"a part without a heading", action(execStep(func(e *driver.Exec) { e.Parts = []driver.Part{{Name: "x", Rest: []string{"/x"}}} })), false},
		{"a part with a heading of two lines", action(execStep(func(e *driver.Exec) { e.Parts = []driver.Part{{Name: "x", Heading: "x\ny", Rest: []string{"/x"}}} })), false},
		{"a huge part", action(execStep(func(e *driver.Exec) {
			e.Parts = []driver.Part{{Name: "x", Heading: "x", Rest: []string{"/x", strings.Repeat("x", driver.MaxStringBytes+1)}}}
		})), false},
		{"parts that are huge in all", action(execStep(func(e *driver.Exec) {
			p := driver.Part{Name: "x", Heading: "x", Rest: []string{"/x"}}
			for range 9 {
				p.Rest = append(p.Rest, strings.Repeat("x", driver.MaxStringBytes))
			}
			e.Parts = []driver.Part{p}
		})), false},
		{"many parts", action(execStep(func(e *driver.Exec) {
			for range driver.MaxParts + 1 {
				e.Parts = append(e.Parts, driver.Part{Name: "x", Heading: "x", Rest: []string{"/x"}})
			}
		})), false},
		{"boot", action(bootStep("/bin/bootctl", "/boot", "/x/init")), true},
		{"no boot any more", action(bootStep("/bin/bootctl", "/boot", "")), true},
		{"boot by a relative program", action(bootStep("bootctl", "/boot", "/x/init")), false},
		{"boot of relative entries", action(bootStep("/bin/bootctl", "", "/x/init")), false},
		{"boot of a relative init", action(bootStep("/bin/bootctl", "/boot", "init")), false},
		{"sync", action(syncStep("/a", "/b")), true},
		{"sync of nothing", action(syncStep()), false},
		{"sync of much", action(syncStep(make([]string, driver.MaxSyncPaths+1)...)), false},
		{"relative sync", action(syncStep("a")), false},
		{"link and sync", action(driver.Step{Link: &driver.Link{Path: "/a"}, Sync: &driver.Sync{Paths: []string{"/a"}}}), false},
		{"relative link", action(linkStep("a", "/b")), false},
		{"relative target", action(linkStep("/a", "b")), false},
		{"long link", action(linkStep("/"+strings.Repeat("a", 5000), "/b")), false},
		{"no link", action(linkStep("", "/b")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := driver.Activation{Rollback: c.action}.Validate()
			if (err == nil) != c.ok || err != nil && !errors.Is(err, driver.ErrAction) {
				t.Errorf("got %v, want good: %t", err, c.ok)
			}
		})
	}
}

func TestActionThroughJSON(t *testing.T) {
	want := action(execStep(func(*driver.Exec) {}), linkStep("/a", ""), execStep(func(e *driver.Exec) {
		*e = driver.Exec{
			Argv: []string{"/s"}, Unless: &driver.Link{Path: "/p", Target: "/t"}, BusyCodes: []int{11}, FailedUnitsCode: 4,
			Meanings: map[int]string{100: "reboot"},
		}
	}), syncStep("/nix"))
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"steps":[{"exec":{"argv":["/bin/true","x"],"env":["A=b"],"user":"somebody","dir":"/","ok_codes":[4]}},` +
		`{"link":{"path":"/a","target":""}},` +
		`{"exec":{"argv":["/s"],"unless":{"path":"/p","target":"/t"},"busy_codes":[11],"failed_units_code":4,"meanings":{"100":"reboot"}}},` +
		`{"sync":{"paths":["/nix"]}}],"deadline":60000000000}`
	// Journals of older agents hold this form.
	if diff := cmp.Diff(text, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got driver.Action
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
