package control

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// endless is a file without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// refusing takes nothing of a file.
type refusing struct{ fakeHost }

func (*refusing) Apply(io.Reader, string) (fleet.ProfileName, fleet.Ref, error) {
	return "", fleet.Ref{}, NotPossible("try later", "not now")
}

func TestBreakGlass(t *testing.T) {
	h := &fakeHost{}
	c, _ := serve(t, h)
	const size = 3*pieceBytes + 7
	profile, ref, err := c.Apply(t.Context(), bytes.NewReader(make([]byte, size)))
	if err != nil || profile != "home/x" || ref.Number.Seq != 3 {
		t.Errorf("got %s, %v, %v", profile, ref, err)
	}
	pin := fleet.DigestOf(nil)
	// A trust root at its limit fits.
	if v, err := c.ResetTrust(t.Context(), make([]byte, 2*fleet.MaxDocumentBytes-1024), pin); err != nil || v != 4 {
		t.Errorf("got %d, %v", v, err)
	}
	if !slices.ContainsFunc(h.asked, func(s string) bool { return strings.HasPrefix(s, "apply 98311 bytes by ") }) ||
		!slices.ContainsFunc(h.asked, func(s string) bool { return strings.HasPrefix(s, "reset trust to 523264 bytes with ") }) {
		t.Errorf("asked %q", h.asked)
	}
	if _, err := c.ResetTrust(t.Context(), nil, "no digest"); err == nil {
		t.Error("no digest was taken for a pin")
	}
}

// TestApplyEndsEarly: a host that refuses a file is heard while it is sent.
func TestApplyEndsEarly(t *testing.T) {
	c, _ := serve(t, &refusing{})
	if _, _, err := c.Apply(t.Context(), endless{}); !errors.Is(err, ErrNotPossible) || !strings.Contains(err.Error(), "not now") {
		t.Errorf("got %v", err)
	}
}
