package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// keepRuns is how many runs a profile keeps the logs of.
	keepRuns = 8
	// defaultDiskReserve is what fetching leaves free, in bytes.
	defaultDiskReserve = 64 << 20
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
	if free < need+a.config.DiskReserve {
		return fmt.Errorf("%w: %d bytes are needed, %d are free below %s", ErrNoRoom, need+a.config.DiskReserve, free, a.blobs.Dir)
	}
	return nil
}

// pruneTimeout bounds clearing away, and so how long the agent's end waits for it.
const pruneTimeout = 5 * time.Second

// prune gives back what no profile needs any more. Failing costs only room.
func (a *Agent) prune(ctx context.Context) {
	// What a profile does next comes at once, and would end each clearing away of
	// the step before.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pruneTimeout)
	defer cancel()
	// Whoever makes a generation ready needs its blobs, half-made secrets, and
	// what is built and not on record yet. Then the next time will do.
	if !a.building.TryLock() {
		a.cluttered.Store(true)
		return
	}
	defer a.building.Unlock()
	a.cluttered.Store(false)
	st := a.journal.State()
	var paths []string
	documents, keepSecrets := map[fleet.Digest]bool{}, map[fleet.ProfileName][]string{}
	errs := []error{}
	for name, p := range st.Profiles {
		store := a.bound.Load().desired
		raise, err := newRaiser(name, *p, store, a.blobs.Has, a.config.Log)
		errs = append(errs, err)
		for _, d := range raise.providers() {
			documents[d] = true
		}
		// Their secrets are prepared anew where they are gone back to.
		idle := append(a.retained(name, *p), p.LastGood, p.Undone)
		for i, b := range idle {
			if raise.revoked(b, store) {
				idle[i].Secrets = ""
			}
		}
		kept := append(idle, p.Current, p.Staged)
		if p.Activation != nil {
			kept = append(kept, p.Activation.From, p.Activation.To, p.Activation.Back(), p.Activation.LeadsTo())
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
	errs = append(errs, a.blobs.Prune(a.neededBlobs(st, documents)))
	for name := range st.Profiles {
		errs = append(errs, secrets.Prune(a.config.secretsRoot(name), keepSecrets[name]))
	}
	errs = append(errs, a.bound.Load().desired.Prune(documents), a.executor.Prune(a.neededRuns))
	for _, d := range a.drivers {
		if _, err := driver.Prune(ctx, d, paths); err != nil && !errors.Is(err, driver.ErrUnsupported) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, a.prunePlugins(ctx, documents, paths)...)
	if err := errors.Join(errs...); err != nil {
		a.cluttered.Store(true)
		a.config.Log.Warn("clearing away failed", "error", err)
	}
}

// retained are the verified generations of a profile that stay built by its policy: the
// newest so many, and those that were verified so long ago at most. One from a clock
// that was ahead stays until its time has come.
func (a *Agent) retained(name fleet.ProfileName, p journal.ProfileState) []journal.Built {
	var policy fleet.Policy
	if newest := a.bound.Load().desired.Newest(name); newest != nil {
		policy = newest.Generation.Doc.Policy
	}
	count := cmp.Or(int(policy.KeepGenerations), fleet.DefaultKeepGenerations)
	if !p.CurrentVerified() {
		count-- // What runs is one of them.
	}
	since := a.now().Add(-time.Duration(policy.KeepFor))
	var kept []journal.Built
	for i, g := range slices.Backward(p.History) {
		if len(p.History)-i <= count || g.Time.After(since) {
			kept = append(kept, g.Built)
		}
	}
	return kept
}

// neededBlobs lists the secrets of generations that may run again: small, and
// needed to install them without a coordinator. Of the highest that is still
// to be built, now or after a retry, it lists everything.
func (a *Agent) neededBlobs(st journal.State, documents map[fleet.Digest]bool) map[fleet.Digest]bool {
	keep := map[fleet.Digest]bool{}
	for _, p := range st.Profiles {
		if p.Current.Is(p.Highest) || p.Staged.Is(p.Highest) || p.Undone.Is(p.Highest) {
			continue
		}
		o, err := a.bound.Load().desired.Load(p.Highest.Digest)
		if err != nil {
			continue // There is none, or it may not run any more.
		}
		for _, ref := range o.Blobs() {
			keep[ref.Digest] = true
		}
	}
	// What a file brought is needed before it is accepted.
	for _, d := range a.bound.Load().desired.Targets() {
		if documents[d] {
			continue
		}
		if o, err := a.bound.Load().desired.Load(d); err == nil {
			for _, ref := range o.Blobs() {
				keep[ref.Digest] = true
			}
		}
	}
	for d := range documents {
		// Also of one whose keys have left the trust root since: it runs.
		m, _, err := a.bound.Load().desired.LoadAcceptedSecrets(d)
		if err != nil || m == nil {
			continue
		}
		for _, e := range m.Entries {
			keep[e.Digest] = true
		}
	}
	return keep
}

// neededRuns picks the runs whose logs are kept, and those in flight, which are
// not the newest by name where the clock was set back.
func (a *Agent) neededRuns(all []string) []string {
	st := a.journal.State()
	var keep []string
	for _, w := range a.sorted() {
		runs := runsOf(all, w.profile)
		keep = append(keep, runs[max(0, len(runs)-keepRuns):]...)
		act := st.Profile(w.profile).Activation
		for _, id := range runs {
			if act != nil && activationOf(id) == act.ID {
				keep = append(keep, id)
			}
		}
	}
	return keep
}

// runsOf picks the runs of a profile, the oldest first.
func runsOf(all []string, p fleet.ProfileName) []string {
	var runs []string
	for _, id := range all {
		// What follows the name is a time, so that "home-a" is not "home-a-b".
		rest, ok := strings.CutPrefix(id, p.FileName()+"-")
		if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			runs = append(runs, id)
		}
	}
	slices.Sort(runs)
	return runs
}

// runsIn lists the runs of a profile in a directory, the oldest first.
func runsIn(dir string, p fleet.ProfileName) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return runsOf(all, p)
}
