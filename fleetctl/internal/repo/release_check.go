package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// releaseFile is a release on disk.
type releaseFile struct {
	*Release
	// Sum is the digest of all other fields (sumOf), so that a byte that changed
	// on a disk is found in what no signature covers, too. Files of before it
	// was there have none.
	Sum fleet.Digest `json:"sum,omitempty"`
}

const sumField = "sum"

// sumOf is the digest of a release's file without its sum. Fields that a newer
// fleetctl wrote count; white space and the order of the fields don't, so that
// a tool that formats JSON breaks nothing. stated is the sum that the file
// says, "" where it says none.
func sumOf(data []byte) (sum, stated fleet.Digest, err error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return "", "", fmt.Errorf("reading its fields: %w", err)
	}
	if raw, ok := fields[sumField]; ok {
		if err := json.Unmarshal(raw, &stated); err != nil || stated == "" {
			return "", "", errors.New("its sum is none")
		}
		delete(fields, sumField)
	}
	canonical, err := json.Marshal(fields) // Sorts, and compacts each value.
	if err != nil {
		return "", "", fmt.Errorf("summing it up: %w", err)
	}
	return fleet.DigestOf(canonical), stated, nil
}

// marshalRelease is the form on disk.
func marshalRelease(rel *Release) ([]byte, error) {
	data, err := json.Marshal(rel)
	if err != nil {
		return nil, fmt.Errorf("encoding release %s: %w", rel.ID, err)
	}
	sum, _, err := sumOf(data)
	if err != nil {
		return nil, fmt.Errorf("encoding release %s: %w", rel.ID, err)
	}
	if data, err = json.MarshalIndent(releaseFile{rel, sum}, "", "  "); err != nil {
		return nil, fmt.Errorf("encoding release %s: %w", rel.ID, err)
	}
	return append(data, '\n'), nil
}

// parseRelease reads a release that should be called name.
func parseRelease(data []byte, name string) (*Release, error) {
	rel := &Release{}
	if err := strictjson.Unmarshal(data, maxReleaseFile, rel); err != nil {
		return nil, err
	}
	sum, stated, err := sumOf(data)
	switch {
	case err != nil:
		return nil, err
	case stated != "" && stated != sum:
		return nil, errors.New("it is not what was written: its sum is another")
	}
	return rel, rel.check(name)
}

func (rel *Release) check(name string) error {
	if string(rel.ID) != name {
		return fmt.Errorf("it is release %q under another name", rel.ID)
	}
	switch rel.State {
	case ReleasePrepared, ReleaseStaged, ReleaseCommitted, ReleaseAbandoned:
	default:
		return fmt.Errorf("state %q is not known", rel.State)
	}
	for i := range rel.Generations {
		g := &rel.Generations[i]
		if _, err := fleet.ParseMachineName(string(g.Machine)); err != nil {
			return err
		}
		if _, err := fleet.ParseDigest(string(g.Digest)); err != nil {
			return err
		}
		if err := rel.checkSigned(g); err != nil {
			return fmt.Errorf("generation %s of %s: %w", g.Number, g.Machine, err)
		}
	}
	return nil
}

// checkSigned says whether the file names a generation as its signed documents
// do: numbers that are taken must not be read from anything else.
func (rel *Release) checkSigned(g *Published) error {
	payload, err := Payload(g.Generation)
	if err != nil {
		return err
	}
	if fleet.DigestOf(payload) != g.Digest {
		return fmt.Errorf("its document is not the one with digest %s", g.Digest)
	}
	var doc struct {
		Fleet   fleet.FleetID     `json:"fleet"`
		Release fleet.ReleaseID   `json:"release"`
		Machine fleet.MachineName `json:"machine"`
		Profile fleet.ProfileName `json:"profile"`
		Number  fleet.Number      `json:"number"`
		Secrets *fleet.SecretsRef `json:"secrets"`
	}
	if err := json.Unmarshal(payload, &doc); err != nil {
		return fmt.Errorf("reading its document: %w", err)
	}
	if doc.Fleet != rel.Fleet || doc.Release != rel.ID || doc.Machine != g.Machine || doc.Profile != g.Profile || doc.Number != g.Number {
		return fmt.Errorf("its document is of %s, %s of %s in release %s of fleet %s", doc.Number, doc.Profile, doc.Machine, doc.Release, doc.Fleet)
	}
	var want, have fleet.Digest
	if doc.Secrets != nil {
		want = doc.Secrets.Digest
	}
	if len(g.Secrets) > 0 {
		if have, err = PayloadDigest(g.Secrets); err != nil {
			return fmt.Errorf("its secrets manifest: %w", err)
		}
	}
	if want != have {
		return errors.New("its secrets manifest is not the one that it names")
	}
	return nil
}

// releaseDamaged says what to do about a release's file that can't be used.
// maxDamagedNamed is how many damaged files are named.
const maxDamagedNamed = 8

// releasesDamaged names all damaged files at once: whoever restores them one by
// one would run the command as often. first is what the first one has.
func (r *Repository) releasesDamaged(files []string, first error) error {
	err := r.releaseDamaged(files[0], first)
	if len(files) == 1 {
		return err
	}
	named := files[1:min(len(files), maxDamagedNamed)]
	more := ""
	if n := len(files) - 1 - len(named); n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	return ui.WithHint(fmt.Errorf("%w; damaged too: %s%s", err, strings.Join(named, ", "), more), ui.HintOf(err)+"; the same with the others")
}

func (r *Repository) releaseDamaged(file string, err error) error {
	return ui.WithHint(fmt.Errorf("reading %s: %w: %w", r.Path("releases", file), ErrCorrupt, err),
		fmt.Sprintf(`"git checkout -- releases/%s" restores it, and check the disk; where nobody has committed it, move it away: `+
			`"fleetctl publish" takes the newest generations and their numbers from the coordinator`, file))
}
