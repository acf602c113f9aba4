package repo

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// signedRelease is a release of one machine, with a secrets manifest.
func signedRelease(t testing.TB, id fleet.ReleaseID, seq uint64) *Release {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(seq) * time.Hour) //nolint:gosec // Small.
	number := fleet.Number{Epoch: 1, Seq: seq}
	secrets, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: "first", Machine: "galena", Issued: at,
	}, release.NewSigner(key))
	if err != nil {
		t.Fatal(err)
	}
	gen, own, err := release.Seal(fleet.TypeGeneration, fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: "first", Machine: "galena", Profile: fleet.System, Number: number, Release: id,
		Issued: at, Expires: at.AddDate(0, 6, 0), Secrets: &fleet.SecretsRef{Digest: digest},
		Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("x")), Size: 1}},
	}, release.NewSigner(key))
	if err != nil {
		t.Fatal(err)
	}
	return &Release{
		ID: id, Fleet: "first", State: ReleaseCommitted, Created: at, Operator: "cameron", Revision: "0123456789abcdef", ExpectedHead: "r0",
		Generations: []Published{{Machine: "galena", Profile: fleet.System, Number: number, Digest: own, Generation: gen, Secrets: secrets}},
	}
}

// TestRottenRelease changes each byte of a release's file: either the file is
// named, with what to do, or it says what it said.
func TestRottenRelease(t *testing.T) {
	r := At(t.TempDir())
	rel := signedRelease(t, "r1", 1)
	if err := r.WriteRelease(rel); err != nil {
		t.Fatal(err)
	}
	path := r.Path("releases", "r1.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for at := range whole {
		for _, flip := range []byte{0x01, 0x04, 0x20, 0x80} {
			rotten := slices.Clone(whole)
			rotten[at] ^= flip
			switch got, err := parseRelease(rotten, "r1"); {
			case err != nil:
			case !cmp.Equal(got, rel):
				t.Errorf("byte %d (%q to %q) is used: %s", at, whole[at], rotten[at], cmp.Diff(rel, got))
			default:
				same++
			}
		}
	}
	// What means the same is the white space, and the name of the sum.
	if same > len(whole)/5 {
		t.Errorf("%d changes of %d bytes mean nothing", same, len(whole))
	}
	for cut := range whole[:len(whole)-1] {
		if _, err := parseRelease(whole[:cut], "r1"); err == nil {
			t.Errorf("cut at %d: read", cut)
		}
	}
	if err := os.WriteFile(path, bytes.Replace(whole, []byte("cameron"), []byte("cameroo"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = r.Releases()
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(ui.HintOf(err), "git checkout -- releases/r1.json") {
		t.Errorf("%v, hint %q", err, ui.HintOf(err))
	}
}

// TestReleaseFormatted: what formats JSON, and line ends of another system,
// make no damage.
func TestReleaseFormatted(t *testing.T) {
	rel := signedRelease(t, "r1", 1)
	data, err := marshalRelease(rel)
	if err != nil {
		t.Fatal(err)
	}
	for name, formatted := range map[string][]byte{
		"line ends": bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")),
		"tabs":      bytes.ReplaceAll(data, []byte("  "), []byte("\t")),
		"newer":     bytes.Replace(data, []byte(`"sum"`), []byte(`"Sum"`), 1), // A field that is not known.
	} {
		if got, err := parseRelease(formatted, "r1"); err != nil || !cmp.Equal(rel, got) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReleaseWithoutSum: a file of before there were sums is held against what
// was signed.
func TestReleaseWithoutSum(t *testing.T) {
	other := signedRelease(t, "r2", 7).Generations[0]
	for name, change := range map[string]func(*Release){
		"":          func(*Release) {},
		"fleet":     func(r *Release) { r.Fleet = "second" },
		"number":    func(r *Release) { r.Generations[0].Number.Seq = 3 },
		"machine":   func(r *Release) { r.Generations[0].Machine = "pyrite" },
		"profile":   func(r *Release) { r.Generations[0].Profile = "home/alice" },
		"digest":    func(r *Release) { r.Generations[0].Digest = other.Digest },
		"document":  func(r *Release) { r.Generations[0].Generation = other.Generation },
		"release":   func(r *Release) { r.Generations[0] = other },
		"manifest":  func(r *Release) { r.Generations[0].Secrets = other.Secrets },
		"no secret": func(r *Release) { r.Generations[0].Secrets = nil },
	} {
		r := At(t.TempDir())
		rel := signedRelease(t, "r1", 1)
		change(rel)
		if err := r.writeJSON(rel, "releases", "r1.json"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Releases(); errors.Is(err, ErrCorrupt) != (name != "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReleaseUnreadable: a file that the disk gives no more is named likewise.
func TestReleaseUnreadable(t *testing.T) {
	r := At(t.TempDir())
	if err := os.MkdirAll(filepath.Join(r.Path("releases"), "r1.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Releases(); !errors.Is(err, ErrCorrupt) || !strings.Contains(ui.HintOf(err), "git checkout") {
		t.Errorf("%v", err)
	}
}
