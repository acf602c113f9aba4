package deadman

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Names in a switch's directory.
const (
	fileOrder   = "order.json"
	fileArmed   = "armed"
	fileLock    = "lock"
	fileWake    = "wake"
	fileLog     = "log"
	fileLeave   = "leave"    // a process without an order is to end
	filePrefix  = "verdict-" // an order's ID follows
	fileOutcome = "outcome-" // so does it here
	fileBoots   = "boots-"   // and here
	fileSays    = "says-"    // a verdict follows
)

// maxFileBytes bounds each of them: an action, escaped at worst, and a little.
const maxFileBytes = 4 << 20

// Order is what a switch does unless somebody decides before it is due.
type Order struct {
	// ID is that of the activation: a file name.
	ID string `json:"id"`
	// After is the deadline, in time awake from when the switch read the order.
	After time.Duration `json:"after"`
	// Sequence grows when After is counted anew.
	Sequence uint64 `json:"sequence"`
	// Runs is the agent's directory of runs, absolute.
	Runs string `json:"runs"`
	// Activate is the run that is ended before the way back.
	Activate string `json:"activate"`
	// Back are the names of the attempts at Rollback, in their order; what was
	// begun under a name is waited for, and not begun again.
	Back     []string      `json:"back"`
	Rollback driver.Action `json:"rollback"`
	// Env comes before the environment of each program.
	Env []string `json:"env,omitempty"`
	// Unit is the agent's service, which is restarted after the switch fired:
	// it is dead or hangs. Empty where there is none.
	Unit string `json:"unit,omitempty"`
}

func (o *Order) validate() error {
	names := append([]string{o.ID, o.Activate}, o.Back...)
	for _, n := range names {
		if !fleet.IsFileName(n) {
			return fmt.Errorf("malformed name %q", n)
		}
	}
	switch {
	case len(o.Back) == 0 || len(o.Back) > maxAttempts:
		return fmt.Errorf("%d attempts at the way back: want 1 to %d", len(o.Back), maxAttempts)
	case o.After <= 0:
		return fmt.Errorf("a deadline of %s", o.After)
	case !filepath.IsAbs(o.Runs):
		return fmt.Errorf("runs in %q: want an absolute path", o.Runs)
	case strings.ContainsAny(o.Unit, "/ ") || strings.HasPrefix(o.Unit, "-"):
		return fmt.Errorf("malformed unit %q", o.Unit)
	}
	if o.Rollback.IsZero() {
		return nil // Nothing but secrets or nothing at all was to change.
	}
	return o.Rollback.Validate() //nolint:wrapcheck // It says what is wrong.
}

// maxAttempts bounds the attempts at one way back.
const maxAttempts = 8

// Verdict says who decided about an order, and what.
type Verdict string

// The verdicts.
const (
	// Verified: the generation works.
	Verified Verdict = "verified"
	// Kept: nobody can tell, and by policy it stays.
	Kept Verdict = "kept"
	// Ended: the activation is over some other way, by the agent.
	Ended Verdict = "ended"
	// Fired: the switch takes the profile back, or did.
	Fired Verdict = "fired"
)

// decided is a verdict as it is stored.
type decided struct {
	Verdict Verdict `json:"verdict"`
}

// Outcome is what came of a switch that fired.
type Outcome struct {
	// Back says that an attempt at the way back ended well.
	Back   bool   `json:"back"`
	Detail string `json:"detail,omitempty"`
}

// errDamaged is an order that nobody can carry out.
var errDamaged = errors.New("it is damaged")

// readOrder reads the newest order; nil for none. It wraps errDamaged.
func readOrder(dir string) (*Order, error) {
	o := &Order{}
	err := readJSON(filepath.Join(dir, fileOrder), o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		if verr := o.validate(); verr != nil {
			err = fmt.Errorf("%w: %w", errDamaged, verr)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the dead-man switch's order: %w", err)
	}
	return o, nil
}

// ordersBelow are the files of the orders that the switches below dir have, which are
// not over.
func ordersBelow(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", fileOrder))
	if err != nil {
		return nil, fmt.Errorf("looking for orders: %w", err)
	}
	return files, nil
}

// verdictOn reads who decided about an order; empty where nobody did yet.
func verdictOn(dir, id string) (Verdict, error) {
	var d decided
	err := readJSON(filepath.Join(dir, filePrefix+id), &d)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading the verdict on %s: %w", id, err)
	}
	switch d.Verdict {
	case Verified, Kept, Ended, Fired:
		return d.Verdict, nil
	}
	return "", fmt.Errorf("reading the verdict on %s: %q is none", id, d.Verdict)
}

// claim leaves a verdict on an order, durably, where there is none, and returns
// the one that counts. It needs no room on the disk: what each verdict says is
// written beforehand, and a link is made by one of those only who decide at once.
func claim(dir, id string, v Verdict) (Verdict, error) {
	if !fleet.IsFileName(id) {
		return "", fmt.Errorf("leaving a verdict: malformed name %q", id)
	}
	if was, err := verdictOn(dir, id); err != nil || was != "" {
		// Whoever left it may have died before it was durable.
		return was, errors.Join(err, atomicfile.SyncDir(dir))
	}
	err := os.Link(filepath.Join(dir, fileSays+string(v)), filepath.Join(dir, filePrefix+id))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("leaving a verdict: %w", err)
	}
	crashpoint.Hit(crashpoint.VerdictLinked)
	if err := atomicfile.SyncDir(dir); err != nil {
		return "", fmt.Errorf("leaving a verdict: %w", err)
	}
	crashpoint.Hit(crashpoint.VerdictLeft)
	return verdictOn(dir, id)
}

// sayings writes what is linked as a verdict.
func sayings(dir string) error {
	for _, v := range []Verdict{Verified, Kept, Ended, Fired} {
		path := filepath.Join(dir, fileSays+string(v))
		var was decided
		if err := readJSON(path, &was); err == nil && was.Verdict == v {
			continue
		}
		data, err := json.Marshal(decided{v})
		if err == nil {
			err = atomicfile.WriteFile(path, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("preparing the verdict %q: %w", v, err)
		}
	}
	return nil
}

func readJSON(path string, v any) error {
	data, err := atomicfile.ReadAtMost(path, maxFileBytes)
	if err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	return nil
}
