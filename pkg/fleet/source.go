package fleet

import (
	"encoding/base64"
	"net/url"
	"path"
	"strings"
)

// Names of built-in drivers.
const (
	// DriverBundle unpacks a tar and needs no Nix.
	DriverBundle = "bundle"
	// DriverNixOS switches a NixOS system.
	DriverNixOS = "nixos"
	// DriverDarwin activates the system of a Mac with nix-darwin.
	DriverDarwin = "darwin"
	// DriverNix runs the activate program of an out path, as system-manager has.
	DriverNix = "nix"
	// DriverHome activates a generation of home-manager as the profile's user.
	DriverHome = "home"
)

// Limits on sources.
const (
	// MaxBundleBytes bounds the canonical uncompressed tar of a bundle.
	MaxBundleBytes = 4 << 30
	// MaxClosureBytes bounds the signed envelope of a closure manifest.
	MaxClosureBytes = 64 << 20
	// maxFlakeURLBytes bounds a locked flake reference.
	maxFlakeURLBytes = 4096
	// maxAttrBytes bounds an attribute path.
	maxAttrBytes = 1024
)

// Source is where a generation comes from, pinned. Exactly one of the kinds
// is set; which ones a driver takes is the driver's to say.
type Source struct {
	// Driver names the driver.
	Driver    string           `json:"driver"`
	Bundle    *BundleSource    `json:"bundle,omitempty"`
	Flake     *FlakeSource     `json:"flake,omitempty"`
	StorePath *StorePathSource `json:"store_path,omitempty"`
	External  *ExternalSource  `json:"external,omitempty"`
}

// BundleSource pins the canonical uncompressed tar of a bundle.
type BundleSource struct {
	Digest Digest `json:"digest"`
	Size   uint64 `json:"size"`
}

// FlakeSource pins a flake, to be built on the host.
type FlakeSource struct {
	// URL is the locked reference, with a revision or narHash of its own, such
	// as git+https://example.org/fleet?rev=…, without a fragment.
	URL string `json:"url"`
	// NarHash of the flake's source tree, SRI ("sha256-…"). The host refuses
	// any other tree.
	NarHash string `json:"nar_hash"`
	// Attr is the attribute to build, such as
	// nixosConfigurations.electrum.config.system.build.toplevel.
	Attr string `json:"attr"`
	// OutPath is the store path that the publisher's evaluation expects; empty
	// where it evaluated nothing, which is shown as unpinned.
	OutPath string `json:"out_path,omitempty"`
	// Closure is the manifest of the closure, as in StorePathSource, where the
	// publisher built it.
	Closure *BlobRef `json:"closure,omitempty"`
}

// StorePathSource pins a store path and its whole closure, to be substituted.
type StorePathSource struct {
	Path string `json:"path"`
	// Closure is the signed closure manifest: an envelope of TypeClosure,
	// signed by the builder role. As a blob it is named by the digest of the
	// envelope, not of its payload.
	Closure BlobRef `json:"closure"`
}

// Blobs lists what has to be fetched before the driver builds.
func (s Source) Blobs() []BlobRef {
	switch {
	case s.External != nil && s.External.Files != nil:
		return []BlobRef{BlobRef(*s.External.Files)}
	case s.Bundle != nil:
		return []BlobRef{{Digest: s.Bundle.Digest, Size: s.Bundle.Size}}
	case s.Flake != nil && s.Flake.Closure != nil:
		return []BlobRef{*s.Flake.Closure}
	case s.StorePath != nil:
		return []BlobRef{s.StorePath.Closure}
	}
	return nil
}

// Closure is the blob of the closure manifest; nil where the source names none.
func (s Source) Closure() *BlobRef {
	switch {
	case s.Flake != nil:
		return s.Flake.Closure
	case s.StorePath != nil:
		return &s.StorePath.Closure
	}
	return nil
}

// OutPath is the pinned store path; empty for a bundle or where it is unpinned.
func (s Source) OutPath() string {
	switch {
	case s.Flake != nil:
		return s.Flake.OutPath
	case s.StorePath != nil:
		return s.StorePath.Path
	}
	return ""
}

// Validate checks a source.
func (s Source) Validate() error {
	if !isToken(s.Driver) {
		return invalid("source has no driver")
	}
	kinds := 0
	for _, set := range []bool{s.Bundle != nil, s.Flake != nil, s.StorePath != nil, s.External != nil} {
		if set {
			kinds++
		}
	}
	if kinds > 1 {
		return invalid("source has %d kinds of content: want one", kinds)
	}
	switch s.Driver {
	case DriverBundle:
		if s.Bundle == nil {
			return invalid("source of driver bundle has no bundle")
		}
	case DriverNixOS, DriverDarwin, DriverNix, DriverHome:
		if s.Flake == nil && s.StorePath == nil {
			return invalid("source of driver %s has neither a flake nor a store path", s.Driver)
		}
	default:
		if s.External == nil {
			return invalid("source of driver %s, which is a plugin's, has no external content", s.Driver)
		}
	}
	switch {
	case s.External != nil:
		return s.validateExternal()
	case s.Bundle != nil:
		return s.Bundle.validate()
	case s.Flake != nil:
		return s.Flake.validate()
	case s.StorePath != nil:
		return s.StorePath.validate()
	}
	return nil
}

func (b *BundleSource) validate() error {
	if _, err := ParseDigest(string(b.Digest)); err != nil {
		return err
	}
	if b.Size == 0 || b.Size > MaxBundleBytes {
		return invalid("bundle size %d: want 1 to %d bytes", b.Size, uint64(MaxBundleBytes))
	}
	return nil
}

func (f *FlakeSource) validate() error {
	u, err := url.Parse(f.URL)
	if err != nil || u.Scheme == "" || len(f.URL) > maxFlakeURLBytes || strings.ContainsAny(f.URL, "#\x00 \n") {
		return invalid("flake url %q: want a locked reference such as git+https://example.org/fleet?rev=…, without a fragment", clip(f.URL))
	}
	if err := validateNarHash(f.NarHash); err != nil {
		return err
	}
	if f.Attr == "" || len(f.Attr) > maxAttrBytes || strings.HasPrefix(f.Attr, "-") || strings.ContainsAny(f.Attr, "#^ \x00\n") {
		return invalid("attribute %q: want a path such as nixosConfigurations.NAME.config.system.build.toplevel", clip(f.Attr))
	}
	if f.OutPath != "" {
		if err := ValidateStorePath(f.OutPath); err != nil {
			return err
		}
	}
	if f.Closure != nil {
		if f.OutPath == "" {
			return invalid("flake has a closure manifest and no out path")
		}
		return validateClosureRef(*f.Closure)
	}
	return nil
}

func (s *StorePathSource) validate() error {
	if err := ValidateStorePath(s.Path); err != nil {
		return err
	}
	return validateClosureRef(s.Closure)
}

func validateClosureRef(r BlobRef) error {
	if _, err := ParseDigest(string(r.Digest)); err != nil {
		return err
	}
	if r.Size == 0 || r.Size > MaxClosureBytes {
		return invalid("closure manifest of %d bytes: want 1 to %d", r.Size, uint64(MaxClosureBytes))
	}
	return nil
}

// validateNarHash wants an SRI hash, "sha256-" and the standard base64 of 32 bytes.
func validateNarHash(h string) error {
	text, ok := strings.CutPrefix(h, "sha256-")
	sum, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(sum) != 32 {
		return invalid("narHash %q: want sha256- and base64", clip(h))
	}
	return nil
}

// storeDir is where Nix keeps store paths; other stores can't run NixOS.
const storeDir = "/nix/store"

// ValidateStorePath wants the path of one object of the Nix store: 32
// characters of Nix's base 32, a dash and a name (Nix manual, "Store Path").
func ValidateStorePath(p string) error {
	const hashLen, maxName = 32, 211
	dir, base := path.Split(p)
	hash, name, ok := strings.Cut(base, "-")
	bad := dir != storeDir+"/" || !ok || len(hash) != hashLen || name == "" || len(name) > maxName || name[0] == '.' ||
		strings.Trim(hash, "0123456789abcdfghijklmnpqrsvwxyz") != ""
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("+-._?=", c) >= 0:
		default:
			bad = true
		}
	}
	if bad {
		return invalid("store path %q: want %s/HASH-NAME", clip(p), storeDir)
	}
	return nil
}
