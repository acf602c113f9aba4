package nixdriver

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
)

// expression is what nix builds for a flake. Nix checks a narHash in the
// reference for some kinds of references and drops it for others (git's, in
// 2.26.3), so the tree that was fetched is compared here before anything of it
// is evaluated, and the out path before anything is built. In one process with
// the build, it costs no second evaluation.
func expression(f fleet.FlakeSource) (string, error) {
	ref, err := reference(f)
	if err != nil {
		return "", err
	}
	tree := withoutDir(ref)
	names, err := nix.ParseAttrPath(f.Attr)
	if err != nil {
		return "", fmt.Errorf("%w: %w", driver.ErrSource, err)
	}
	var path strings.Builder
	for _, n := range names {
		path.WriteString(" " + quote(n))
	}
	const pinned = `if %s != %s then throw "` + mismatch + `%s is %s, and it is ${%s}" else `
	check := fmt.Sprintf(pinned, "tree.narHash", quote(f.NarHash), "narHash", f.NarHash, "tree.narHash") +
		fmt.Sprintf(pinned, "flake.sourceInfo.narHash", quote(f.NarHash), "narHash", f.NarHash, "flake.sourceInfo.narHash")
	if f.OutPath != "" {
		check += fmt.Sprintf(pinned, "value.outPath", quote(f.OutPath), "out path", f.OutPath, "value.outPath")
	}
	return "let tree = builtins.fetchTree " + quote(tree) + "; flake = builtins.getFlake " + quote(ref) +
		"; value = builtins.foldl' (set: name: set.${name}) flake [" + path.String() + " ]; in " + check + "value", nil
}

// quote writes a string of the Nix language.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(s) + `"`
}

// reference is the locked reference as nix takes it without a lock of its own.
func reference(f fleet.FlakeSource) (string, error) {
	u, err := url.Parse(f.URL)
	if err != nil {
		return "", fmt.Errorf("%w: flake url: %w", driver.ErrSource, err)
	}
	query := u.Query()
	if own := query.Get("narHash"); own != "" && strings.ReplaceAll(own, " ", "+") != f.NarHash {
		return "", fmt.Errorf("%w: flake url names narHash %s, and %s is pinned", driver.ErrSource, own, f.NarHash)
	}
	if u.Scheme == "git" || strings.HasPrefix(u.Scheme, "git+") || query.Has("narHash") {
		// Git's are locked by their revision, and what they don't know they send to
		// the server.
		return f.URL, nil
	}
	sep := "?"
	if strings.Contains(f.URL, "?") {
		sep = "&"
	}
	return f.URL + sep + "narHash=" + url.QueryEscape(f.NarHash), nil
}

// withoutDir is the reference of the tree that a flake is in.
func withoutDir(ref string) string {
	base, query, ok := strings.Cut(ref, "?")
	if !ok {
		return ref
	}
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if part != "dir" && !strings.HasPrefix(part, "dir=") {
			kept = append(kept, part)
		}
	}
	if len(kept) == 0 {
		return base
	}
	return base + "?" + strings.Join(kept, "&")
}
