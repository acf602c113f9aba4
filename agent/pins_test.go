package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// TestPins: a join string of another fleet is refused before anybody is asked, and
// leaves nothing behind that a later attempt would go on with.
func TestPins(t *testing.T) {
	h := newHost(t)
	mine, other := h.fleet.Join(h.coord.Address), fleet.DigestOf([]byte("another"))
	ca, root := string(mine.CA), string(mine.Root)
	foreign := func(change func(*pki.Join)) string {
		j := mine
		change(&j)
		return j.String()
	}
	for _, c := range []struct{ name, join, ca, root, says string }{
		{"another root", foreign(func(j *pki.Join) { j.Root = other }), ca, root, "starts from trust root"},
		{"another root, no CA given", foreign(func(j *pki.Join) { j.Root = other }), "", root, "starts from trust root"},
		{"another CA", foreign(func(j *pki.Join) { j.CA = other }), ca, root, "is none of the host's"},
		{"another CA, no root given", foreign(func(j *pki.Join) { j.CA = other }), ca, "", "is none of the host's"},
		{"both of another", h.config.Join, string(other), string(other), "starts from trust root"},
	} {
		args := []string{"enrol", c.join}
		if c.ca != "" {
			args = append(args, "--ca-pin", c.ca)
		}
		if c.root != "" {
			args = append(args, "--root-pin", c.root)
		}
		code, _, stderr := h.fleetAgent(args...)
		if code != exitRefused || !strings.Contains(stderr, "of another fleet") || !strings.Contains(stderr, c.says) || !strings.Contains(stderr, "hint:") {
			t.Errorf("%s: %d, %s", c.name, code, stderr)
		}
	}
	if n := h.coord.Calls("Enrol"); n != 0 {
		t.Errorf("%d attempts with a join string of another fleet", n)
	}
	if code, _, stderr := h.fleetAgent("enrol"); code != exitError || !strings.Contains(stderr, "no join string") {
		t.Errorf("afterwards: %d, %s", code, stderr)
	}
	for _, flags := range [][]string{{"--ca-pin", "sha256:12"}, {"--root-pin", "c7d73ab1"}} {
		if code, _, stderr := h.fleetAgent(append([]string{"enrol", h.config.Join}, flags...)...); code != exitUsage || !strings.Contains(stderr, "fleetctl trust show") {
			t.Errorf("%v: %d, %s", flags, code, stderr)
		}
	}

	// The agent says it, and goes on by itself once the file has the right one.
	file := filepath.Join(t.TempDir(), "join")
	if err := os.WriteFile(file, []byte(foreign(func(j *pki.Join) { j.CA = other })), 0o600); err != nil {
		t.Fatal(err)
	}
	right := h.config.Join
	h.config.Join, h.config.JoinFile = "", file
	h.config.Pins = Pins{CAs: []fleet.Digest{other[:len(other)-1] + "0", mine.CA}, Root: mine.Root}
	h.start()
	waitStatus(t, h, func(r fleet.Reason) bool {
		return r.Code == "not-enrolled" && strings.Contains(r.Message, "none of the host's") && strings.Contains(r.Hint, "trust show")
	})
	if err := os.WriteFile(file, []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	h.confirmed(1, "one")
}
