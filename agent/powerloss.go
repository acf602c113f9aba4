package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// bootFile is where the agent remembers the boot that it ran in.
const bootFile = "boot"

// maxBootBytes bounds what is read of it.
const maxBootBytes = 4 << 10

// bootRecord tells a boot after an orderly end from one after a power loss.
type bootRecord struct {
	BootID string `json:"boot_id"`
	// Stopped says that the agent ended because it was told to, as a shutdown
	// tells it.
	Stopped bool `json:"stopped,omitempty"`
	// Suspect says that what an unclean boot may have damaged was not looked at to
	// the end yet.
	Suspect bool `json:"suspect,omitempty"`
}

// openBoot finds out whether what lies ready is to be looked at: the host booted
// anew and the agent of the boot before never ended in order. What cannot be
// read is taken for a power loss too, of which it is a mark.
func (a *Agent) openBoot() error {
	file := filepath.Join(a.config.StateDir, bootFile)
	before := bootRecord{BootID: a.bootID}
	data, err := atomicfile.ReadAtMost(file, maxBootBytes)
	switch {
	case errors.Is(err, atomicfile.ErrTooLarge):
		before = bootRecord{Suspect: true}
	case err == nil:
		before = parseBoot(data)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("reading what boot it was: %w", err)
	}
	suspect := before.unclean(a.bootID)
	a.suspect.Store(suspect)
	if suspect {
		a.config.Log.Warn("the host did not shut down in order; what lies ready is looked at before it is used")
	}
	return a.writeBoot(false)
}

// parseBoot reads a record; what is none is taken for the mark of a power loss.
func parseBoot(data []byte) bootRecord {
	var r bootRecord
	if json.Unmarshal(data, &r) != nil {
		return bootRecord{Suspect: true}
	}
	return r
}

// unclean says whether, in the boot id, what the boot of a record left is to be
// looked at.
func (r bootRecord) unclean(id string) bool {
	return r.Suspect || r.BootID != id && !r.Stopped
}

func (a *Agent) writeBoot(stopped bool) error {
	data, err := json.Marshal(bootRecord{BootID: a.bootID, Stopped: stopped, Suspect: a.suspect.Load()})
	if err != nil {
		return fmt.Errorf("recording the boot: %w", err)
	}
	return atomicfile.WriteFile(filepath.Join(a.config.StateDir, bootFile), append(data, '\n'), 0o600) //nolint:wrapcheck // It names the file.
}

// inspect reads, after an unclean boot, what of a profile may be needed: what is
// staged, what runs and what is gone back to. What is damaged is mended before
// anything is decided, so that no generation is blamed for it. What can't be
// mended is said; it is built again when its turn comes.
func (w *worker) inspect(ctx context.Context) error {
	if !w.a.suspect.Load() {
		return nil
	}
	w.mu.Lock()
	w.said.plan.Reason = fleet.Reason{Code: fleet.ReasonCrashRecovery, Message: "reading what a power loss may have damaged"}
	w.mu.Unlock()
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	needed := []journal.Built{ps.Staged, ps.Current, ps.LastGood}
	if act := ps.Activation; act != nil {
		needed = append(needed, act.LeadsTo(), act.To)
	}
	var looked, mended, unmended []string
	for _, b := range needed {
		if b.Path == "" || slices.Contains(looked, b.Path) {
			continue
		}
		looked = append(looked, b.Path)
		damaged, err := w.mend(ctx, b)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && damaged:
			mended = append(mended, b.Path)
		case err == nil:
		default:
			w.log.Error("what a power loss damaged can't be mended", "path", b.Path, "error", err)
			if b.Is(ps.Staged.Ref) {
				w.note(func(f *facts) { f.damaged = b.Ref.Digest })
				continue
			}
			unmended = append(unmended, b.Path+" ("+err.Error()+")")
		}
	}
	w.note(func(f *facts) {
		if len(mended) > 0 {
			f.mended = fleet.Reason{
				Code: fleet.ReasonCrashRecovery, Message: "a power loss damaged " + strings.Join(mended, " and ") + ", and it was mended",
			}
		}
		if len(unmended) > 0 {
			f.unmended = fleet.Reason{
				Code: fleet.ReasonCrashRecovery, Message: "a power loss damaged what can't be mended: " + strings.Join(unmended, "; "),
				Hint: "check the disk, and publish a new generation",
			}
		}
	})
	return w.a.inspected(w)
}

// powerLoss is what is to be said of one, once there is nothing else to say.
func (f *facts) powerLoss() fleet.Reason {
	if f.unmended.Code != "" {
		return f.unmended
	}
	return f.mended
}

// inspected notes that a profile was looked at; after the last one nothing is
// suspect any more.
func (a *Agent) inspected(w *worker) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.inspected = true
	for _, other := range a.workers {
		if !other.inspected {
			return nil
		}
	}
	a.suspect.Store(false)
	return a.writeBoot(false)
}

// mend reads all of a built path, and mends it where something is wrong: by its
// driver alone, or by building its source again where that is on record. damaged
// says that something was wrong.
func (w *worker) mend(ctx context.Context, b journal.Built) (damaged bool, err error) {
	_, d, err := w.maker(b)
	if err != nil {
		return false, err
	}
	err = driver.Verify(ctx, d, b.Path)
	if err == nil || errors.Is(err, driver.ErrUnsupported) {
		return false, nil
	}
	return true, w.mendDamaged(ctx, d, b, err)
}

func (w *worker) mendDamaged(ctx context.Context, d driver.Driver, b journal.Built, err error) error {
	w.log.Warn("a power loss damaged what was built; mending it", "path", b.Path, "error", err)
	if rerr := driver.Repair(ctx, d, b.Path); rerr == nil {
		w.log.Info("mended", "path", b.Path)
		return nil
	} else if !errors.Is(rerr, driver.ErrUnsupported) {
		err = rerr
	}
	if b.Ref.Digest == "" {
		return err // Nobody recorded what it was made of.
	}
	g, lerr := w.a.bound.Load().desired.LoadAccepted(b.Ref.Digest)
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	req := driver.BuildRequest{Profile: w.profile, Source: g.Source, Blobs: map[fleet.Digest]string{}}
	for _, ref := range g.Source.Blobs() {
		if err := w.a.bound.Load().client.FetchBlob(ctx, w.a.blobs, ref); err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		req.Blobs[ref.Digest] = w.a.blobs.Path(ref.Digest)
	}
	w.a.building.RLock()
	defer w.a.building.RUnlock()
	if _, err := w.buildPinned(ctx, d, req); err != nil {
		return err
	}
	if err := driver.Verify(ctx, d, b.Path); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	w.log.Info("built again", "path", b.Path)
	return nil
}
