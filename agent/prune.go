package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// keepRuns is how many runs a profile keeps the logs of.
	keepRuns = 8
	// diskReserve is what fetching leaves free.
	diskReserve = 64 << 20
)

// ErrNoRoom says that the disk can't take what is to be fetched.
var ErrNoRoom = errors.New("not enough room on the disk")

// room checks that blobs, and what is unpacked from them, fit.
func (a *Agent) room(blobs []fleet.BlobRef) error {
	var need uint64
	for _, b := range blobs {
		if a.blobs.Has(b) {
			continue
		}
		if b.Size > math.MaxUint64/4-need {
			return fmt.Errorf("%w: the sizes that were signed are beyond any disk", ErrNoRoom)
		}
		need += 2 * b.Size
	}
	if need == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.blobs.Dir, &fs); err != nil {
		return fmt.Errorf("looking at the disk: %w", err)
	}
	free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // Not negative.
	if free < need+diskReserve {
		return fmt.Errorf("%w: %d bytes are needed, %d are free below %s", ErrNoRoom, need+diskReserve, free, a.blobs.Dir)
	}
	return nil
}

// prune gives back what no profile needs any more, but for what has just ended
// on one of them. Failing costs only room.
func (a *Agent) prune(ctx context.Context, profile fleet.ProfileName, ended journal.Built) {
	st := a.journal.State()
	var paths []string
	documents, keepSecrets := map[fleet.Digest]bool{}, map[fleet.ProfileName][]string{}
	for name, p := range st.Profiles {
		kept := []journal.Built{p.Current, p.LastGood, p.Staged}
		if name == profile {
			kept = append(kept, ended)
		}
		if p.Activation != nil {
			kept = append(kept, p.Activation.From, p.Activation.To, p.Activation.Back())
		}
		for _, b := range kept {
			if b.Path != "" {
				paths = append(paths, b.Path)
			}
			if b.Secrets != "" {
				keepSecrets[name] = append(keepSecrets[name], b.Secrets)
			}
			documents[b.Ref.Digest] = true
		}
		documents[p.Highest.Digest], documents[p.Confirmed.Digest] = true, true
	}
	var errs []error
	// Whoever makes a generation ready needs its blobs, and half-made secrets.
	if a.building.TryLock() {
		errs = append(errs, a.blobs.Prune(a.ciphertexts(documents)))
		for name := range st.Profiles {
			errs = append(errs, secrets.Prune(a.config.secretsRoot(name), keepSecrets[name]))
		}
		a.building.Unlock()
	}
	errs = append(errs, a.bound.Load().desired.Prune(documents), a.executor.Prune(a.newestRuns()))
	for _, d := range a.drivers {
		if _, err := driver.Prune(ctx, d, paths); err != nil && !errors.Is(err, driver.ErrUnsupported) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		a.config.Log.Warn("clearing away failed", "error", err)
	}
}

// ciphertexts lists the secrets of generations that may run again: small, and
// needed to install them without a coordinator.
func (a *Agent) ciphertexts(documents map[fleet.Digest]bool) map[fleet.Digest]bool {
	keep := map[fleet.Digest]bool{}
	for d := range documents {
		o, err := a.bound.Load().desired.Load(d)
		if err != nil {
			continue
		}
		for _, ref := range o.SecretBlobs() {
			keep[ref.Digest] = true
		}
	}
	return keep
}

// newestRuns lists the runs whose logs are kept.
func (a *Agent) newestRuns() []string {
	var keep []string
	for _, w := range a.sorted() {
		runs := a.runsOf(w.profile)
		keep = append(keep, runs[max(0, len(runs)-keepRuns):]...)
	}
	return keep
}

// runsOf lists the runs of a profile, the oldest first.
func (a *Agent) runsOf(p fleet.ProfileName) []string { return runsIn(a.runsDir(), p) }

func runsIn(dir string, p fleet.ProfileName) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var runs []string
	for _, e := range entries {
		// What follows the name is a time, so that "home-a" is not "home-a-b".
		rest, ok := strings.CutPrefix(e.Name(), p.FileName()+"-")
		if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			runs = append(runs, e.Name())
		}
	}
	slices.Sort(runs)
	return runs
}
