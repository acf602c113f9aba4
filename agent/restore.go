package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ciphertexts are those that were fetched, of which no more is read than was signed.
func ciphertexts(blobs sync.Blobs) secrets.Open {
	return func(ref fleet.BlobRef) ([]byte, error) {
		f, err := os.Open(blobs.Path(ref.Digest))
		if err != nil {
			return nil, err //nolint:wrapcheck // It names the file.
		}
		defer func() { _ = f.Close() }()
		return io.ReadAll(io.LimitReader(f, int64(min(ref.Size, 1<<40))+1)) //nolint:gosec // Bounded just here.
	}
}

// restoreSecrets has the secrets be there of all that runs, and that the host may go to
// without asking anybody: what memory held is gone after a boot.
func restoreSecrets(ctx context.Context, c Config, st journal.State, store *desired.Store, blobs sync.Blobs, r secrets.Restoration) error {
	r.Memory, r.Log, r.Open = c.SecretsInMemory, c.Log, ciphertexts(blobs)
	var errs []error
	roots := map[fleet.ProfileName][]secrets.Set{fleet.System: nil}
	for name, p := range st.Profiles {
		raise, err := newRaiser(name, *p, store, blobs.Has, c.Log)
		errs = append(errs, err)
		sets, err := setsOf(c.secretsRoot(name), *p, store, raise)
		if errs = append(errs, err); len(sets) > 0 {
			roots[name] = sets
		}
	}
	for name, sets := range roots {
		errs = append(errs, r.Restore(ctx, c.secretsRoot(name), sets))
	}
	if places, ours := c.places(); ours {
		errs = append(errs, restoreLinks(places, st))
	}
	return errors.Join(errs...)
}

// restoreLinks makes the links that a boot took away, where what runs does not install
// secrets there itself: the host was taken back to it, say.
func restoreLinks(places secrets.Places, st journal.State) error {
	p := st.Profile(fleet.System)
	if p.Current.Secrets == "" {
		return nil
	}
	switch err := secrets.CheckSystem(p.Current.Path); {
	case errors.Is(err, secrets.ErrTwoOwners):
		return nil
	case err != nil:
		return err //nolint:wrapcheck // It says what failed.
	}
	return places.Restore() //nolint:wrapcheck // It says what failed.
}

// setsOf are the sets of secrets that a profile's record names, what runs first: each with
// what the host may have of it.
func setsOf(root string, p journal.ProfileState, store *desired.Store, raise raiser) (sets []secrets.Set, err error) {
	built := []journal.Built{p.Current}
	if act := p.Activation; act != nil {
		built = append(built, act.From, act.To, act.Back(), act.LeadsTo())
	}
	built = append(built, p.LastGood, p.Staged, p.Undone)
	seen := map[string]bool{}
	for _, b := range built {
		// Those of a link that was elsewhere are not this one's to make.
		if b.Secrets == "" || filepath.Dir(b.Secrets) != root+".d" || b.Ref.Digest == "" {
			continue
		}
		m, digest, lerr := store.LoadAcceptedSecrets(b.Ref.Digest)
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("restoring secrets of generation %s: %w", b.Ref.Number, lerr))
		}
		if m == nil || seen[b.Secrets] {
			continue
		}
		seen[b.Secrets] = true
		raised, digest, rerr := raise.raise(*m, digest)
		err = errors.Join(err, rerr)
		sets = append(sets, secrets.Set{Manifest: raised, Digest: digest, Name: filepath.Base(b.Secrets)})
	}
	return sets, err
}

// restoreSecrets is done as the agent starts. What can't be made is told, and made once
// more before anything is activated that needs it.
func (a *Agent) restoreSecrets(store *desired.Store) {
	if file := a.config.SecretsKey; file != "" {
		if err := secrets.KeepKey(file, a.identity.AgeIdentities()); err != nil {
			a.config.Log.Error("systems of this host may not be able to open their secrets", "error", err)
		}
	}
	err := restoreSecrets(context.Background(), a.config, a.journal.State(), store, a.blobs, secrets.Restoration{IDs: a.identity.AgeIdentities()})
	if err != nil {
		a.config.Log.Error("secrets of this host are not all in place", "error", err)
	}
}

// RestoreSecrets makes the secrets of what a host runs, without an agent and without a
// network, as is due early at a boot: early is before there are users, and makes only
// what is needed for them. Where an agent runs, it has done so; where the host is not
// enrolled, there are none.
func RestoreSecrets(ctx context.Context, c Config, early bool) error {
	dir := filepath.Join(c.StateDir, identityDir)
	binding, err := identity.ReadBinding(dir)
	if errors.Is(err, identity.ErrNotEnrolled) {
		c.Log.Info("this host is not enrolled: it has no secrets")
		return nil
	}
	if err != nil {
		return fmt.Errorf("restoring secrets: %w", err)
	}
	unlock, err := journal.Lock(c.StateDir)
	if errors.Is(err, journal.ErrLocked) {
		c.Log.Info("the agent of this host runs: it sees to the secrets")
		return nil
	}
	if err != nil {
		return fmt.Errorf("restoring secrets: %w", err)
	}
	defer func() { _ = unlock() }()
	st, err := journal.Read(c.StateDir)
	if err != nil {
		return fmt.Errorf("restoring secrets: %w", err)
	}
	store, err := desired.Open(filepath.Join(c.StateDir, desiredDir), binding.Root, st.Root.Version)
	if err != nil {
		return fmt.Errorf("restoring secrets: %w", err)
	}
	id, err := identity.Open(identity.Options{Dir: dir, AgeIdentity: c.AgeIdentity})
	if err != nil {
		return fmt.Errorf("restoring secrets: %w", err)
	}
	blobs := sync.Blobs{Dir: filepath.Join(c.StateDir, blobsDir)}
	return restoreSecrets(ctx, c, st, store, blobs, secrets.Restoration{Early: early, IDs: id.AgeIdentities()})
}
