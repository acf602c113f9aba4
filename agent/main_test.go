package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// fleetAgent runs a command line against the host's directories.
func (h *host) fleetAgent(args ...string) (code int, stdout, stderr string) {
	return h.fleetAgentReads("", args...)
}

// fleetAgentReads runs one with a standard input.
func (h *host) fleetAgentReads(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	args = append(args, "--state-dir", h.config.StateDir, "--run-dir", h.config.RunDir)
	code = Main(args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	h := newHost(t)
	if code, _, stderr := h.fleetAgent("status"); code != exitAbsent || !strings.Contains(stderr, "no journal") {
		t.Errorf("status of nothing: %d, %s", code, stderr)
	}
	h.start()
	h.confirmed(1, "one")
	second := h.publish(2, "two", "echo said while activating")
	h.coord.WaitState(fleet.StateConfirmed, second)

	code, stdout, stderr := h.fleetAgent("status")
	if code != exitOK || !strings.Contains(stdout, "confirmed") || !strings.Contains(stdout, "1.2 (r)") || strings.Contains(stdout, offlineNote) {
		t.Errorf("status: %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, _ := h.fleetAgent("logs"); code != exitOK || !strings.Contains(stdout, "said while activating") {
		t.Errorf("logs: %d, %s", code, stdout)
	}
	if code, stdout, stderr := h.fleetAgent("pause", "lunch"); code != exitOK || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, "paused (lunch)") {
		t.Errorf("pause: %d, %s%s", code, stdout, stderr)
	}
	var paused struct{ Paused, Mode string }
	if code, stdout, stderr := h.fleetAgent("pause", "tea", "-o", "json"); code != exitOK || json.Unmarshal([]byte(stdout), &paused) != nil ||
		paused.Paused != "tea" || paused.Mode != "manage" {
		t.Errorf("pause: %d, %s%s", code, stdout, stderr)
	}
	if code, _, _ := h.fleetAgent("rollback", "home/eve"); code != exitRefused {
		t.Errorf("rollback of a profile that isn't there: %d", code)
	}
	if code, stdout, _ := h.fleetAgent("rollback"); code != exitOK || !strings.Contains(stdout, "1.1") {
		t.Errorf("rollback: %d, %s", code, stdout)
	}
	waitLocal(t, h, fleet.StateRolledBack)
	h.expectServing("one")
	if code, stdout, _ := h.fleetAgent("retry", "-o", "json"); code != exitOK || !strings.Contains(stdout, `"1.2"`) {
		t.Errorf("retry: %d, %s", code, stdout)
	}
	if code, stdout, stderr := h.fleetAgent("resume"); code != exitOK || stdout != "not paused: activations may start\n" {
		t.Errorf("resume: %d, %s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := h.fleetAgent("resume", "-o", "json"); code != exitOK || json.Unmarshal([]byte(stdout), &paused) != nil || paused.Paused != "" {
		t.Errorf("resume: %d, %s%s", code, stdout, stderr)
	}
	h.coord.WaitState(fleet.StateConfirmed, second)
	h.crash()

	// Without an agent the journal speaks, and so do the logs.
	code, stdout, _ = h.fleetAgent("status", "-o", "json")
	var doc statusDocument
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != exitOK {
		t.Fatalf("status: %d, %v\n%s", code, err, stdout)
	}
	if doc.Note != offlineNote || doc.Machine != "pyrite" || doc.Mode != fleet.ModeManage || len(doc.Profiles) != 1 ||
		doc.Profiles[0].State != fleet.StateConfirmed || doc.Profiles[0].Current.Number != "1.2" {
		t.Errorf("status without an agent: %s", stdout)
	}
	if code, stdout, _ := h.fleetAgent("status"); code != exitOK || !strings.Contains(stdout, offlineNote) {
		t.Errorf("status without an agent: %d, %s", code, stdout)
	}
	if code, stdout, _ := h.fleetAgent("logs"); code != exitOK || !strings.Contains(stdout, "said while activating") {
		t.Errorf("logs without an agent: %d, %s", code, stdout)
	}
	if code, _, stderr := h.fleetAgent("pause", "x"); code != exitAbsent || !strings.Contains(stderr, "hint:") {
		t.Errorf("pause without an agent: %d, %s", code, stderr)
	}
}

func TestCommandLineMistakes(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{
		{"dance"},
		{"status", "--depth"},
		{"pause"},
		{"status", "-o", "xml"},
		{"enrol", "a", "b"},
		{"rollback", "nope"},
		{"retry", "home/"},
		{"logs", "../x"},
		{"logs", "-o", "json"},
		{"pause", " "},
		{"run", "--log-level", "loud"},
		{"run", "--log-format", "xml"},
		{"enrol", "--log-level", "loud"},
		{"run", "--coordinator", "foo"},
		{"run", "--coordinator", ":7443"},
		{"enrol", "--coordinator", "foo:"},
		{"run", "--env", "FOO"},
		{"run", "--env", "=x"},
		{"run", "--poll-interval", "-1s"},
		{"run", "--poll-interval", "0"},
		{"run", "--nix-max-jobs", "many"},
		{"run", "--nix-max-jobs", "-1"},
		{"install", "--nix-max-jobs", "many"},
	} {
		if code, _, stderr := h.fleetAgent(args...); code != exitUsage || !strings.Contains(stderr, "hint:") {
			t.Errorf("%v: %d, %s", args, code, stderr)
		}
	}
	if entries, err := os.ReadDir(h.config.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was started: %v, %v", entries, err)
	}
	if code, _, stderr := h.fleetAgent("enrol", "fleet-join1:abc"); code != exitError || !strings.Contains(stderr, "join string") {
		t.Errorf("a cut join string: %d, %s", code, stderr)
	}
	for format, want := range map[string]string{"table": buildinfo.Text("fleet-agent"), "json": `"go": "` + runtime.Version()} {
		if code, out, _ := h.fleetAgent("version", "-o", format); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("version: %d, %s", code, out)
		}
	}
	if code, _, stderr := h.fleetAgent("logs", "home/nobody"); code != exitRefused || !strings.Contains(stderr, "nothing of home/nobody was activated yet") {
		t.Errorf("logs of what never was: %d, %s", code, stderr)
	}
}

func TestEnrolCommand(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(t.TempDir(), "join")
	if err := os.WriteFile(file, []byte(h.config.Join+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if code, stdout, stderr := h.fleetAgent("enrol", "--join-file", file); code != exitOK || !strings.Contains(stdout, "pyrite") {
			t.Fatalf("enrol: %d, %s%s", code, stdout, stderr)
		}
	}
	if n := h.coord.Calls("Enrol"); n != 1 {
		t.Errorf("%d enrolments", n)
	}
	// With another join string the host is enrolled again.
	const warning = "other users of this machine can read the join string"
	if code, _, stderr := h.fleetAgent("enrol", h.fleet.Join(h.coord.Address).String()); code != exitOK || !strings.Contains(stderr, warning) {
		t.Errorf("enrolling again: %d, %s", code, stderr)
	}
	// On standard input a line is enough, and nobody else sees it.
	input := h.fleet.Join(h.coord.Address).String() + "\nmore\n"
	if code, _, stderr := h.fleetAgentReads(input, "enrol", "-"); code != exitOK || strings.Contains(stderr, warning) {
		t.Errorf("enrolling from standard input: %d, %s", code, stderr)
	}
	if code, _, stderr := h.fleetAgentReads("\n", "enrol", "-"); code != exitError || !strings.Contains(stderr, "no join string on standard input") {
		t.Errorf("enrolling from nothing: %d, %s", code, stderr)
	}
	if n := h.coord.Calls("Enrol"); n != 3 {
		t.Errorf("%d enrolments", n)
	}
	h.config.Join = ""
	h.start()
	h.confirmed(1, "one")
}

func TestStateFromNewerVersion(t *testing.T) {
	h := newHost(t)
	if err := os.MkdirAll(h.config.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.config.StateDir, "version"), []byte("999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := h.fleetAgent("run")
	if code != exitError || !strings.Contains(stderr, "newer") {
		t.Errorf("run: %d, %s", code, stderr)
	}
}
