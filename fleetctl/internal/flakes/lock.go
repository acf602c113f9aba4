package flakes

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Locked is a flake that can't change any longer.
type Locked struct {
	// URL has a revision or a narHash, and no fragment.
	URL string
	// NarHash of the source tree, SRI.
	NarHash string
	// Rev is the revision; empty where the kind of flake has none.
	Rev string
	// Dir is the flake's directory in the source tree; empty for its root.
	Dir string
	// Local says that the URL is a path of this machine.
	Local bool
}

// metadata is what "nix flake metadata --json" prints. What is not needed is
// left out.
type metadata struct {
	URL    string `json:"url"`
	Locked struct {
		Type     string `json:"type"`
		Rev      string `json:"rev"`
		DirtyRev string `json:"dirtyRev"`
		NarHash  string `json:"narHash"`
		Dir      string `json:"dir"`
		URL      string `json:"url"`
	} `json:"locked"`
	DirtyRevision string `json:"dirtyRevision"`
}

// Lock finds the revision and hash that a flake has now. Errors wrap ErrDirty,
// ErrUnlocked or ErrFetch, or are about nix itself.
func (n *Nix) Lock(ctx context.Context, ref string) (Locked, error) {
	out, err := n.run(ctx, maxOutput, "flake", "metadata", "--json", "--no-update-lock-file", ref)
	if err != nil {
		return Locked{}, fmt.Errorf("locking flake %s: %w", ref, lockError(err))
	}
	l, err := decodeMetadata(out)
	if err != nil {
		return Locked{}, fmt.Errorf("locking flake %s: %w", ref, err)
	}
	return l, nil
}

func lockError(err error) error {
	f := (*failed)(nil)
	switch {
	case errors.Is(err, ErrOldNix) || !errors.As(err, &f):
		return err
	case f.has("requires lock file changes"):
		return ui.WithHint(fmt.Errorf("%w: %w", ErrUnlocked, f), "run nix flake lock and commit flake.lock: its inputs would be others on each host")
	}
	return ui.WithHint(fmt.Errorf("%w: %w", ErrFetch, f), "check source.flake; nix flake metadata says more")
}

func decodeMetadata(out []byte) (Locked, error) {
	var m metadata
	if err := strictjson.Unmarshal(out, maxOutput, &m); err != nil {
		return Locked{}, fmt.Errorf("%w: %w", ErrOutput, err)
	}
	l := Locked{URL: m.URL, NarHash: m.Locked.NarHash, Rev: m.Locked.Rev, Dir: m.Locked.Dir}
	if m.DirtyRevision != "" || m.Locked.DirtyRev != "" {
		return Locked{}, ui.WithHint(ErrDirty, "commit them, so that hosts can fetch what you publish; files that git does not know are no part of a flake")
	}
	if l.NarHash == "" {
		return Locked{}, ui.WithHint(fmt.Errorf("%w: nix does not say the hash of its tree", ErrUnlocked), "set lazy-trees = false for nix")
	}
	u, err := url.Parse(m.URL)
	if err != nil || u.Scheme == "" || strings.ContainsAny(m.URL, "# \n") {
		return Locked{}, fmt.Errorf("%w: locked url %q", ErrOutput, refusal.Plain(m.URL[:min(len(m.URL), maxLine)]))
	}
	if l.Rev == "" && !u.Query().Has("narHash") {
		return Locked{}, ui.WithHint(fmt.Errorf("%w: it has neither a revision nor a hash", ErrUnlocked), "commit it to a git repository")
	}
	l.Local = isLocal(u)
	return l, nil
}

func isLocal(u *url.URL) bool {
	return u.Scheme == "path" || u.Scheme == "file" || strings.HasSuffix(u.Scheme, "+file")
}

// At is the locked reference of the same tree at another place: what a fleet
// file says that hosts use.
func (l Locked) At(place string) (string, error) {
	bad := func(what, hint string) (string, error) {
		return "", ui.WithHint(fmt.Errorf("source.url %s: %w: %s", place, ErrUnlocked, what), hint)
	}
	u, err := url.Parse(place)
	if err != nil {
		return bad("it is no URL", "write a URL that hosts reach, such as git+https://example.org/fleet")
	}
	q := u.Query()
	if l.Dir != "" && !q.Has("dir") {
		q.Set("dir", l.Dir)
	}
	switch kind, _, _ := strings.Cut(u.Scheme, "+"); {
	case slices.Contains([]string{"github", "gitlab", "sourcehut"}, u.Scheme):
		if l.Rev == "" {
			return bad("the flake has no revision", "commit it to the git repository that hosts use")
		}
		parts := strings.Split(strings.Trim(u.Opaque, "/"), "/")
		if len(parts) != 2 || q.Has("ref") {
			return bad("it names a branch", "write "+u.Scheme+":OWNER/REPOSITORY alone: publish adds the revision")
		}
		u.Opaque = strings.Join(parts, "/") + "/" + l.Rev
	case kind == "git" || kind == "hg":
		if l.Rev == "" {
			return bad("the flake has no revision", "commit it to the git repository that hosts use")
		}
		q.Set("rev", l.Rev)
	default:
		q.Set("narHash", l.NarHash)
	}
	u.RawQuery = encode(q)
	return u.String(), nil
}

// withHash names the tree's hash in a reference, so that nix refuses any other.
func withHash(ref, narHash string) string {
	if narHash == "" || strings.Contains(ref, "narHash=") {
		return ref
	}
	sep := "?"
	if strings.Contains(ref, "?") {
		sep = "&"
	}
	return ref + sep + "narHash=" + url.QueryEscape(narHash)
}

// encode leaves slashes as they are, as nix writes references.
func encode(q url.Values) string { return strings.ReplaceAll(q.Encode(), "%2F", "/") }
