package fleet

import "time"

// maxClosurePaths bounds the paths of a closure; a large desktop has 5,000.
const maxClosurePaths = 100_000

// ClosureManifest pins every path of a closure: the payload of a document
// signed by the builder role, at most MaxClosureBytes with its signatures. It
// does not expire: the generation that names it by digest does.
type ClosureManifest struct {
	Type     string        `json:"type"` // TypeClosure
	Fleet    FleetID       `json:"fleet"`
	Issued   time.Time     `json:"issued"`
	Critical []string      `json:"critical,omitempty"`
	Root     string        `json:"root"`
	Paths    []ClosurePath `json:"paths"` // by path
}

// ClosurePath is one store path as Nix's database has it.
type ClosurePath struct {
	Path    string `json:"path"`
	NarHash string `json:"nar_hash"` // SRI
	NarSize uint64 `json:"nar_size"` // bytes
	// References are store paths, sorted; a path may refer to itself.
	References []string `json:"references,omitempty"`
}

// Validate checks everything about a closure manifest that needs no context:
// sorted unique paths, the root among them, no reference out of the closure.
func (m *ClosureManifest) Validate() error {
	if m.Type != TypeClosure {
		return invalid("type is %q, want %q", clip(m.Type), TypeClosure)
	}
	if _, err := ParseFleetID(string(m.Fleet)); err != nil {
		return err
	}
	if len(m.Paths) == 0 || len(m.Paths) > maxClosurePaths {
		return invalid("closure of %d paths: want 1 to %d", len(m.Paths), maxClosurePaths)
	}
	have := make(map[string]bool, len(m.Paths))
	for i, p := range m.Paths {
		if err := ValidateStorePath(p.Path); err != nil {
			return err
		}
		if i > 0 && p.Path <= m.Paths[i-1].Path {
			return invalid("closure: %s is out of order or there twice", p.Path)
		}
		if err := validateNarHash(p.NarHash); err != nil {
			return err
		}
		have[p.Path] = true
	}
	if !have[m.Root] {
		return invalid("closure does not have its root %q", clip(m.Root))
	}
	for _, p := range m.Paths {
		for i, r := range p.References {
			if !have[r] {
				return invalid("closure: %s refers to %q, which is not in it", p.Path, clip(r))
			}
			if i > 0 && r <= p.References[i-1] {
				return invalid("closure: references of %s are out of order or there twice", p.Path)
			}
		}
	}
	return nil
}
