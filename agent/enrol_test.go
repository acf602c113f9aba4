package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

// TestWrongJoinStringFirst: a join string that was refused does not bind the
// state directory to the machine and fleet that it was for.
func TestWrongJoinStringFirst(t *testing.T) {
	h := newHost(t)
	h.coord.Refuse("Enrol", refusal.New(codes.PermissionDenied, fleet.Reason{Code: refusal.TokenMachine, Message: "another machine's token"}))
	wrong := h.fleet.Join(h.coord.Address)
	wrong.Machine = "galena"
	if code, _, stderr := h.fleetAgent("enrol", wrong.String()); code != exitRefused {
		t.Fatalf("the wrong one: %d, %s", code, stderr)
	}
	h.coord.Refuse("Enrol", nil)
	if code, stdout, stderr := h.fleetAgent("enrol", h.config.Join); code != exitOK || !strings.Contains(stdout, "pyrite") {
		t.Fatalf("the right one: %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := h.fleetAgent("enrol", wrong.String()); code != exitError || !strings.Contains(stderr, "fresh state directory") {
		t.Errorf("the wrong one, of an enrolled host: %d, %s", code, stderr)
	}
	h.config.Join = ""
	h.start()
	h.confirmed(1, "one")
}

// TestJoinStringThatIsNotThere: what was named and isn't there is said, unless
// the host can do without it.
func TestJoinStringThatIsNotThere(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(t.TempDir(), "join")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(when string, want int, says string, args ...string) {
		t.Helper()
		code, stdout, stderr := h.fleetAgent(append([]string{"enrol"}, args...)...)
		if code != want || !strings.Contains(stdout+stderr, says) {
			t.Errorf("%s, enrol %v: %d, want %d with %q\n%s%s", when, args, code, want, says, stdout, stderr)
		}
	}
	check("at first", exitError, "no join string")
	check("at first", exitError, file+" does not exist", "--join-file", file)
	check("at first", exitError, empty+" is empty", "--join-file", empty)
	check("at first", exitError, "no join string on standard input", "-")
	check("at first", exitError, "is empty", "")
	if n := h.coord.Calls("Enrol"); n != 0 {
		t.Errorf("%d attempts with no join string", n)
	}
	h.coord.Refuse("Enrol", refusal.New(codes.PermissionDenied, fleet.Reason{Code: refusal.TokenExpired, Message: "too late"}))
	check("at first", exitRefused, "too late", h.config.Join)
	said := "going on with the join string of an earlier attempt"
	check("pending", exitRefused, said)
	check("pending", exitRefused, said, "--join-file", empty)
	check("pending", exitRefused, said, "--join-file", file)
	check("pending", exitRefused, file, "--join-file", file)
	check("pending", exitError, "no join string on standard input", "-")
	h.coord.Refuse("Enrol", nil)
	check("at last", exitOK, "enrolled as", h.config.Join)
	check("enrolled", exitOK, "enrolled as")
	check("enrolled", exitOK, "enrolled as", "--join-file", file)
	h.config.Join, h.config.JoinFile = "", file
	h.start()
	h.confirmed(1, "one")
}
