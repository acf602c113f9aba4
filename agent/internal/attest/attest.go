// Package attest says what is the newest that a fleet published, from a
// checkout of the fleet's repository: not from the coordinator, which is who a
// freshness statement is to be a check of.
package attest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

const (
	// maxReleaseBytes bounds the file of one release: 50,000 machines fit.
	maxReleaseBytes = 256 << 20
	maxRootBytes    = 2 * fleet.MaxDocumentBytes
	maxRoots        = 10_000
	// updateTimeout bounds bringing the checkout up to date.
	updateTimeout = 2 * time.Minute
)

// Newest is the newest that was published: the version of the trust root, and
// the highest generation of each profile of each machine.
type Newest struct {
	Root     uint64
	Machines map[fleet.MachineName]map[fleet.ProfileName]fleet.Ref
}

// Update brings a git checkout up to date, forwards only. A directory that is
// none is left as it is: whoever put it there keeps it up to date.
func Update(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, ".git")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "pull", "--quiet", "--ff-only") //nolint:gosec // A directory of the agent's configuration.
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("updating %s: %w: %.300s", dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// releaseFile is what counts of a release's file. The rest, and what it says of
// itself, is not needed: the envelopes say it, signed.
type releaseFile struct {
	State       string `json:"state"`
	Generations []struct {
		Generation []byte `json:"generation"`
	} `json:"generations"`
}

// Read reads the newest of everything from a checkout. All of it is verified,
// from the trust root with digest pin on. Only what was committed counts: hosts
// can't have anything else.
func Read(dir string, pin fleet.Digest) (*Newest, error) {
	t, err := readTrust(filepath.Join(dir, "trust", "root"), pin)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "releases", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing releases: %w", err)
	}
	n := &Newest{Root: t.Root().Version, Machines: map[fleet.MachineName]map[fleet.ProfileName]fleet.Ref{}}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), ".") {
			continue
		}
		data, err := atomicfile.ReadAtMost(name, maxReleaseBytes)
		if err == nil {
			err = n.add(t, data)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return n, nil
}

// add takes in the file of one release.
func (n *Newest) add(t *release.Trust, data []byte) error {
	var f releaseFile
	if err := strictjson.Unmarshal(data, maxReleaseBytes, &f); err != nil {
		return err //nolint:wrapcheck // The caller names the file.
	}
	if f.State != "committed" {
		return nil
	}
	for _, g := range f.Generations {
		signed, err := t.OpenGeneration(g.Generation)
		if errors.Is(err, release.ErrUnknownKey) {
			continue // Of a key that was replaced since: no host takes it now.
		}
		if err != nil {
			return err //nolint:wrapcheck // The caller names the file.
		}
		d := signed.Doc
		of := n.Machines[d.Machine]
		if of == nil {
			of = map[fleet.ProfileName]fleet.Ref{}
			n.Machines[d.Machine] = of
		}
		if d.Number.Compare(of[d.Profile].Number) > 0 {
			of[d.Profile] = fleet.Ref{Number: d.Number, Digest: signed.Digest, Release: d.Release}
		}
	}
	return nil
}

func readTrust(dir string, pin fleet.Digest) (*release.Trust, error) {
	var chain [][]byte
	for v := 1; v <= maxRoots; v++ {
		b, err := atomicfile.ReadAtMost(filepath.Join(dir, strconv.Itoa(v)+".json"), maxRootBytes)
		if errors.Is(err, os.ErrNotExist) && v > 1 {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading trust roots: %w", err)
		}
		chain = append(chain, b)
	}
	// A host that enrolled after a rotation, or whose trust was reset, is pinned to
	// a later root than the first.
	err := error(release.ErrRootPin)
	for i := 0; i < len(chain) && errors.Is(err, release.ErrRootPin); i++ {
		var t *release.Trust
		if t, err = release.OpenChain(chain[i:], pin); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", dir, err)
}

// Sign makes a statement for each machine, by name.
func (n *Newest) Sign(f fleet.FleetID, issued, expires time.Time, s release.Signer) ([][]byte, error) {
	var names []fleet.MachineName
	for m := range n.Machines {
		names = append(names, m)
	}
	slices.Sort(names)
	var out [][]byte
	for _, m := range names {
		doc := fleet.Freshness{
			Type: fleet.TypeFreshness, Fleet: f, Machine: m, Issued: issued, Expires: expires,
			Root: n.Root, Highest: n.Machines[m],
		}
		if err := doc.Validate(); err != nil {
			return nil, fmt.Errorf("stating what is the newest of %s: %w", m, err)
		}
		env, _, err := release.Seal(fleet.TypeFreshness, doc, s)
		if err != nil {
			return nil, fmt.Errorf("stating what is the newest of %s: %w", m, err)
		}
		out = append(out, env)
	}
	return out, nil
}
