package flakes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Value evaluates an attribute of a flake, committed or not, and returns it in
// JSON, at most limit bytes. Errors wrap ErrNoAttr, ErrEvaluation, ErrUnlocked,
// ErrTooMuch or are about nix itself.
func (n *Nix) Value(ctx context.Context, ref, attr string, limit int) ([]byte, error) {
	if ref == "" || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, "#\n\x00") {
		return nil, ui.WithHint(fmt.Errorf("%w: %q is no reference", ErrFetch, ref), "write a path such as ., or a URL; the attribute is apart from it")
	}
	if _, err := nix.ParseAttrPath(attr); err != nil {
		return nil, ui.WithHint(err, "write a path such as a.b.c")
	}
	out, err := n.run(ctx, limit, "eval", "--json", "--no-update-lock-file", ref+"#"+attr)
	if err != nil {
		return nil, fmt.Errorf("evaluating %s#%s: %w", ref, attr, notEvaluated(err, "Another attribute can be named with --attr"))
	}
	return out, nil
}

// notEvaluated says why "nix eval" failed on a flake of clan, and what else to do where it
// has no such attribute.
func notEvaluated(err error, or string) error {
	f := (*failed)(nil)
	switch {
	case errors.Is(err, ErrOldNix) || !errors.As(err, &f):
		return err
	case f.has("does not provide attribute"):
		return ui.WithHint(fmt.Errorf("%w: %w", ErrNoAttr, f), "is it a clan flake? "+or)
	case f.has("requires lock file changes"):
		return lockError(err)
	}
	return ui.WithHint(fmt.Errorf("%w: %w", ErrEvaluation, f), "nix eval shows more with --show-trace")
}
