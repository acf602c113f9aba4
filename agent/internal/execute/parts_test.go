package execute

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

var brew = driver.Part{Name: "brew", Heading: "brew...", Rest: []string{"/bin/sh", "-c", "echo rest"}}

// TestPartOf: the part that a program failed in is the one that it began last, whatever
// else it printed, and none that it is past.
func TestPartOf(t *testing.T) {
	t.Parallel()
	agents := driver.Part{Name: "agents", Heading: "agents...", Ends: []string{"network..."}, Rest: []string{"/x"}}
	parts := []driver.Part{agents, brew}
	for name, tt := range map[string]struct{ output, want string }{
		"nothing said":                  {"", ""},
		"before":                        {"users...\n", ""},
		"in it":                         {"users...\nagents...\ncreating x\n", "agents"},
		"past it":                       {"agents...\nnetwork...\nno\n", ""},
		"in the next":                   {"agents...\nnetwork...\nbrew...\nInstalling x has failed!\n", "brew"},
		"in the next, without a word":   {"agents...\nbrew...", "brew"},
		"what comes after says nothing": {"brew...\nnetwork...\n", "brew"},
		"only like a heading":           {" brew...\nbrew....\n\x1b[1mbrew...\n", ""},
		"carriage returns":              {"brew...\r\n", "brew"},
		"within a line":                 {strings.Repeat("x", maxHeading) + "brew...\n", ""},
		"long lines after it":           {"brew...\n" + strings.Repeat("x", 3*maxHeading) + "\n", "brew"},
		"no text":                       {"\x00\xff\nbrew...\n\xfe", "brew"},
	} {
		got := ""
		if p := partOf(strings.NewReader(tt.output), parts); p != nil {
			got = p.Name
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestParts: a program that fails in a part that a host can be without has ended well
// once the rest of it is done, and says what failed; any other failure is one.
func TestParts(t *testing.T) {
	t.Parallel()
	again := driver.Part{Name: "agents", Heading: "agents...", Ends: []string{"network..."}, Rest: []string{"/bin/sh", "-c", "echo agents...; echo network...; echo brew...; exit 1"}}
	forever := driver.Part{Name: "loop", Heading: "loop...", Rest: []string{"/bin/sh", "-c", "echo loop...; exit 1"}}
	bad := driver.Part{Name: "bad", Heading: "bad...", Rest: []string{"/bin/sh", "-c", "exit 7"}}
	for name, tt := range map[string]struct {
		script   string
		parts    []driver.Part
		outcome  Outcome
		degraded string
		log      string
	}{
		"all well":               {"echo brew...", []driver.Part{brew}, OutcomeOK, "", ""},
		"in it":                  {"echo brew...; exit 1", []driver.Part{brew}, OutcomeOK, "brew failed (exit code 1)", "rest\n"},
		"before it":              {"echo users...; exit 1", []driver.Part{brew}, OutcomeExit, "", ""},
		"no parts":               {"echo brew...; exit 1", nil, OutcomeExit, "", ""},
		"killed in it":           {"echo brew...; kill -9 $$", []driver.Part{brew}, OutcomeExit, "", ""},
		"in one after another":   {"echo agents...; exit 3", []driver.Part{again, brew}, OutcomeOK, "agents failed (exit code 3), brew failed (exit code 1)", "rest\n"},
		"the rest fails":         {"echo bad...; exit 1", []driver.Part{bad}, OutcomeExit, "", "what comes after"},
		"the same for ever":      {"echo loop...; exit 1", []driver.Part{forever}, OutcomeExit, "", "loop..."},
		"more than is looked at": {"echo brew...; head -c 6000000 /dev/zero; exit 1", []driver.Part{brew}, OutcomeExit, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := executor(t, t.TempDir())
			// What an earlier step printed is nothing to the second.
			steps := []driver.Step{sh("echo brew..."), sh(tt.script), sh("echo last")}
			steps[1].Exec.Parts = tt.parts
			if err := e.Start(t.Context(), "a", action(time.Minute, steps...), nil); err != nil {
				t.Fatal(err)
			}
			res := waitFor(t, e, "a")
			if res.Outcome != tt.outcome || res.Degraded != tt.degraded || (res.Outcome == OutcomeOK) != (res.Message == "") {
				t.Errorf("got %+v", res)
			}
			if tt.outcome != OutcomeOK && res.Step != 1 {
				t.Errorf("failed in step %d", res.Step)
			}
			log, err := os.ReadFile(e.Log("a"))
			if err != nil || !strings.Contains(string(log), tt.log) || strings.Contains(string(log), "last\n") != (tt.outcome == OutcomeOK) {
				t.Errorf("%v, and the log ends with %q", err, log[max(0, len(log)-200):])
			}
			if name == "the rest fails" && (res.ExitCode != 7 || !strings.Contains(res.Message, "bad failed (exit code 1)")) {
				t.Errorf("%+v does not say what was done in the place of what", res)
			}
		})
	}
}

// TestPartsOnLateDeadline: what is done in the place of the rest has the deadline of all.
func TestPartsOnLateDeadline(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	s := sh("echo brew...; exit 1")
	s.Exec.Parts = []driver.Part{{Name: "brew", Heading: "brew...", Rest: []string{"/bin/sh", "-c", "sleep 600"}}}
	if err := e.Start(t.Context(), "a", action(300*time.Millisecond, s), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeHung || res.Degraded != "" {
		t.Errorf("got %+v", res)
	}
}

// FuzzPartOf: whatever a program prints, the part that it is in is that whose heading is the
// last line of those that are one or end it.
func FuzzPartOf(f *testing.F) {
	parts := []driver.Part{{Name: "agents", Heading: "agents...", Ends: []string{"network...", "brew..."}}, {Name: "brew", Heading: "brew..."}}
	for _, s := range []string{
		"", "agents...", "agents...\nnetwork...\n", "agents...\r\nbrew... \t\n", "brew...\nnetwork...", "\x00\xff\nbrew...\n", strings.Repeat("x", maxHeading) + "agents...\n",
		"brew..." + strings.Repeat(" ", maxHeading-8) + "\nx", "brew..." + strings.Repeat(" ", maxHeading-7) + "\nx",
		"brew..." + strings.Repeat(" ", maxHeading-8) + "\r\nx", "brew..." + strings.Repeat(" ", maxHeading-7),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, output string) {
		want := ""
		for line := range strings.SplitSeq(output, "\n") {
			if len(line) >= maxHeading { // Longer than any heading, whatever it ends with.
				continue
			}
			switch strings.TrimRight(line, " \t\r") {
			case "agents...":
				want = "agents"
			case "brew...":
				want = "brew"
			case "network...":
				if want == "agents" {
					want = ""
				}
			}
		}
		got := ""
		if p := partOf(strings.NewReader(output), parts); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("%q, want %q, of %q", got, want, output)
		}
	})
}
