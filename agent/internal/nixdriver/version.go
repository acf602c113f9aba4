package nixdriver

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// The oldest Nix that has all that the drivers ask of it.
const (
	oldestMajor = 2
	oldestMinor = 18
)

// tooOld explains a failure by a nix that is too old; nil where it is not. It is
// asked only then: each nix process costs 20 ms.
func (b *base) tooOld(ctx context.Context) error {
	out, err := b.run(ctx, nil, maxOutBytes, "--version")
	if err != nil {
		return nil //nolint:nilerr // The failure itself says more.
	}
	text := clean(string(out))
	major, minor, ok := version(text)
	if !ok || major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return ui.WithHint(fmt.Errorf("this host's %.100q is too old: version %d.%d or later is needed", text, oldestMajor, oldestMinor),
		"update Nix on the host")
}

// version reads what "nix --version" prints, such as "nix (Nix) 2.26.3" or "nix
// (Lix, like Nix) 2.91.1".
func version(text string) (major, minor int, ok bool) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return 0, 0, false
	}
	parts := strings.SplitN(fields[len(fields)-1], ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return 0, 0, false
	}
	digits := parts[1]
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i] // 2.19pre…
	}
	if minor, err = strconv.Atoi(digits); err != nil {
		return 0, 0, false
	}
	return major, minor, true
}
