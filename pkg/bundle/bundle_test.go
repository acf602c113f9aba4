package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// sample makes a bundle with something of everything.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"a", "a/deep", "a-b", "empty"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	for name, mode := range map[string]fs.FileMode{
		"activate": 0o755, "check": 0o700, "a/deep/file": 0o600, "a-b/ünïcode": 0o644,
		"a/" + strings.Repeat("long-", 40) + "name": 0o644,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), mode))
	}
	must(t, os.Symlink("deep/file", filepath.Join(dir, "a/link")))
	must(t, os.Symlink("../a/link", filepath.Join(dir, "a-b/chain")))
	must(t, os.Symlink("nothing-here", filepath.Join(dir, "dangling")))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func packed(t testing.TB, dir string) ([]byte, fleet.BundleSource) {
	t.Helper()
	var b bytes.Buffer
	src, err := bundle.Pack(dir, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), src
}

func TestRoundTrip(t *testing.T) {
	data, src := packed(t, sample(t))
	if src.Size != uint64(len(data)) || src.Digest != fleet.DigestOf(data) {
		t.Errorf("got %v for %d bytes of %s", src, len(data), fleet.DigestOf(data))
	}
	// Same content with other permissions and times: same tar.
	again, _ := packed(t, sample(t))
	if !bytes.Equal(data, again) {
		t.Error("two equal directories have two tars")
	}

	store := t.TempDir()
	dir := filepath.Join(store, "b")
	var last uint64
	must(t, bundle.Unpack(t.Context(), bytes.NewReader(data), dir, src, bundle.Limits{}, func(n uint64) { last = n }))
	if last != src.Size {
		t.Errorf("progress ended at %d of %d", last, src.Size)
	}
	back, err := bundle.Digest(dir)
	must(t, err)
	if diff := cmp.Diff(src, back); diff != "" {
		t.Errorf("packing again (-want +got):\n%s", diff)
	}
	must(t, bundle.Verify(t.Context(), dir, src.Digest, bundle.Limits{}))
	// Unpacking over it replaces it.
	must(t, os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600))
	must(t, bundle.Unpack(t.Context(), bytes.NewReader(data), dir, src, bundle.Limits{}, nil))
	must(t, bundle.Verify(t.Context(), dir, src.Digest, bundle.Limits{}))
	only(t, store, "b")
}

// only says what may be in dir.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("in the store (-want +got):\n%s", diff)
	}
}

// activateHeader is in every tar that should fail for another reason only.
var activateHeader = tar.Header{Name: "activate", Typeflag: tar.TypeReg, Mode: 0o755}

func makeTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }

func dir(name string) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink, Mode: 0o777}
}

func with(h tar.Header, f func(*tar.Header)) tar.Header {
	f(&h)
	return h
}

func TestUnpackRefuses(t *testing.T) {
	act := activateHeader
	sparse := with(file("b"), func(h *tar.Header) { h.Size = 512 })
	for _, c := range []struct {
		name    string
		headers []tar.Header
		limits  bundle.Limits
		want    error
	}{
		{"traversal", []tar.Header{act, file("../x")}, bundle.Limits{}, bundle.ErrName},
		{"traversal inside", []tar.Header{act, dir("b"), file("b/../../x")}, bundle.Limits{}, bundle.ErrName},
		{"dots", []tar.Header{act, file("b/./x")}, bundle.Limits{}, bundle.ErrName},
		{"absolute", []tar.Header{file("/etc/x"), act}, bundle.Limits{}, bundle.ErrName},
		{"empty element", []tar.Header{act, dir("b"), file("b//x")}, bundle.Limits{}, bundle.ErrName},
		{"top itself", []tar.Header{dir("."), act}, bundle.Limits{}, bundle.ErrName},
		{"control character", []tar.Header{act, file("b\nx")}, bundle.Limits{}, bundle.ErrName},
		{"no UTF-8", []tar.Header{act, with(file("b\xff"), func(h *tar.Header) { h.Format = tar.FormatGNU })}, bundle.Limits{}, bundle.ErrName},
		{"long path", []tar.Header{act, file(strings.Repeat("x", 600))}, bundle.Limits{}, bundle.ErrName},
		{"long element", []tar.Header{act, file(strings.Repeat("x", 256))}, bundle.Limits{}, bundle.ErrName},
		{"deep", []tar.Header{act, file(strings.Repeat("x/", 40) + "x")}, bundle.Limits{}, bundle.ErrName},
		{"absolute link", []tar.Header{act, link("b", "/etc/passwd")}, bundle.Limits{}, bundle.ErrLink},
		{"empty link", []tar.Header{act, link("b", "")}, bundle.Limits{}, bundle.ErrLink},
		{"escaping link", []tar.Header{act, link("b", "../x")}, bundle.Limits{}, bundle.ErrLink},
		{"escaping deep link", []tar.Header{act, dir("b"), link("b/c", "../../x")}, bundle.Limits{}, bundle.ErrLink},
		{"escaping through links", []tar.Header{act, dir("b"), link("b/up", ".."), link("z", "b/up/../x")}, bundle.Limits{}, bundle.ErrLink},
		{"escaping and back", []tar.Header{act, link("b", "../../../../x/activate")}, bundle.Limits{}, bundle.ErrLink},
		{"link circle", []tar.Header{act, link("b", "c"), link("c", "b")}, bundle.Limits{}, bundle.ErrLink},
		{"link to a link outside", []tar.Header{act, link("b", "c/.."), link("c", "."), link("d", "b/x")}, bundle.Limits{}, bundle.ErrLink},
		{"long link target", []tar.Header{act, link("b", strings.Repeat("x", 600))}, bundle.Limits{}, bundle.ErrName},
		{"through a link", []tar.Header{act, link("b", "."), file("b/x")}, bundle.Limits{}, bundle.ErrParent},
		{"below a file", []tar.Header{act, file("activate/x")}, bundle.Limits{}, bundle.ErrParent},
		{"without its directory", []tar.Header{act, file("b/x")}, bundle.Limits{}, bundle.ErrParent},
		{"hard link", []tar.Header{act, {Name: "b", Linkname: "activate", Typeflag: tar.TypeLink}}, bundle.Limits{}, bundle.ErrType},
		{"character device", []tar.Header{act, {Name: "b", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, bundle.Limits{}, bundle.ErrType},
		{"block device", []tar.Header{act, {Name: "b", Typeflag: tar.TypeBlock}}, bundle.Limits{}, bundle.ErrType},
		{"fifo", []tar.Header{act, {Name: "b", Typeflag: tar.TypeFifo}}, bundle.Limits{}, bundle.ErrType},
		{"contiguous file", []tar.Header{act, {Name: "b", Typeflag: tar.TypeCont}}, bundle.Limits{}, bundle.ErrType},
		{"setuid", []tar.Header{with(act, func(h *tar.Header) { h.Mode = 0o4755 })}, bundle.Limits{}, bundle.ErrMode},
		{"setgid", []tar.Header{act, with(file("b"), func(h *tar.Header) { h.Mode = 0o2644 })}, bundle.Limits{}, bundle.ErrMode},
		{"sticky directory", []tar.Header{act, with(dir("b"), func(h *tar.Header) { h.Mode = 0o1777 })}, bundle.Limits{}, bundle.ErrMode},
		{"writable by all", []tar.Header{act, with(file("b"), func(h *tar.Header) { h.Mode = 0o666 })}, bundle.Limits{}, bundle.ErrMode},
		{"twice", []tar.Header{act, act}, bundle.Limits{}, bundle.ErrDuplicate},
		{"twice apart", []tar.Header{act, file("b"), act}, bundle.Limits{}, bundle.ErrDuplicate},
		{"file and directory", []tar.Header{act, file("b"), dir("b")}, bundle.Limits{}, bundle.ErrDuplicate},
		{"order", []tar.Header{file("b"), act}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"order by element", []tar.Header{dir("a"), file("a-b"), file("a/b"), act}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"time", []tar.Header{with(act, func(h *tar.Header) { h.ModTime = time.Unix(1, 0) })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"owner", []tar.Header{with(act, func(h *tar.Header) { h.Uid = 1 })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"owner name", []tar.Header{with(act, func(h *tar.Header) { h.Gname = "wheel" })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"attribute", []tar.Header{with(act, func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"} })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"other format", []tar.Header{with(act, func(h *tar.Header) { h.Format = tar.FormatGNU })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"needless pax", []tar.Header{with(act, func(h *tar.Header) { h.Format = tar.FormatPAX; h.PAXRecords = map[string]string{"VENDOR.x": "y"} })}, bundle.Limits{}, bundle.ErrNotCanonical},
		{"too many entries", []tar.Header{act, file("b"), file("c")}, bundle.Limits{Entries: 2}, bundle.ErrTooLarge},
		{"too many bytes", []tar.Header{act, sparse}, bundle.Limits{Bytes: 1024}, bundle.ErrTooLarge},
		{"no activate", []tar.Header{file("b")}, bundle.Limits{}, bundle.ErrNoActivate},
		{"activate not executable", []tar.Header{file("activate")}, bundle.Limits{}, bundle.ErrNoActivate},
		{"check not executable", []tar.Header{act, file("check")}, bundle.Limits{}, bundle.ErrMode},
		{"deactivate not executable", []tar.Header{act, file("deactivate")}, bundle.Limits{}, bundle.ErrMode},
		{"activate a directory", []tar.Header{dir("activate")}, bundle.Limits{}, bundle.ErrNoActivate},
		{"empty", nil, bundle.Limits{}, bundle.ErrNoActivate},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := makeTar(t, c.headers...)
			refuse(t, data, fleet.BundleSource{Digest: fleet.DigestOf(data), Size: uint64(len(data))}, c.limits, c.want)
		})
	}
}

func refuse(t *testing.T, data []byte, src fleet.BundleSource, limits bundle.Limits, want error) {
	t.Helper()
	store := t.TempDir()
	err := bundle.Unpack(t.Context(), bytes.NewReader(data), filepath.Join(store, "b"), src, limits, nil)
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	only(t, store)
}

func TestUnpackRefusesBytes(t *testing.T) {
	good, src := packed(t, sample(t))
	other := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	signed := func(b []byte) fleet.BundleSource {
		return fleet.BundleSource{Digest: fleet.DigestOf(b), Size: uint64(len(b))}
	}
	flipped := other(func(b []byte) []byte { b[bytes.Index(b, []byte("content of check"))] ^= 1; return b })
	trailing := other(func(b []byte) []byte { return append(b, make([]byte, 512)...) })
	second := other(func(b []byte) []byte { return append(b, b...) })
	headerNUL := other(func(b []byte) []byte { b[bytes.Index(b, []byte("check\x00"))+8] = 'x'; return b })
	padding := other(func(b []byte) []byte { b[bytes.Index(b, []byte("content of check"))+100] = 'x'; return b })
	cut := other(func(b []byte) []byte { return b[:len(b)-1024] })
	half := other(func(b []byte) []byte { return b[:bytes.Index(b, []byte("content of check"))+3] })
	// An entry that claims 8 GiB in a tar of two blocks.
	bomb := makeTar(t, activateHeader)[:512]
	copy(bomb[124:], "77777777777\x00")
	checksum(bomb)
	for _, c := range []struct {
		name string
		data []byte
		src  fleet.BundleSource
		want error
	}{
		{"altered byte", flipped, src, bundle.ErrDigest},
		{"wrong digest", good, fleet.BundleSource{Digest: fleet.DigestOf(nil), Size: src.Size}, bundle.ErrDigest},
		{"larger than signed", good, fleet.BundleSource{Digest: src.Digest, Size: src.Size - 1}, bundle.ErrTooLarge},
		{"smaller than signed", good, fleet.BundleSource{Digest: src.Digest, Size: src.Size + 1}, bundle.ErrTruncated},
		{"truncated", half, src, bundle.ErrTruncated},
		{"signed truncated", half, signed(half), bundle.ErrTruncated},
		{"signed without end", cut, signed(cut), bundle.ErrNotCanonical},
		{"nothing", nil, src, bundle.ErrTruncated},
		{"trailing zeros", trailing, signed(trailing), bundle.ErrNotCanonical},
		{"second tar behind", second, signed(second), bundle.ErrNotCanonical},
		{"bytes behind NUL in a name", headerNUL, signed(headerNUL), bundle.ErrNotCanonical},
		{"bytes in padding", padding, signed(padding), bundle.ErrNotCanonical},
		{"no tar", bytes.Repeat([]byte("x"), 2048), signed(bytes.Repeat([]byte("x"), 2048)), bundle.ErrNotCanonical},
		{"bomb", bomb, signed(bomb), bundle.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) { refuse(t, c.data, c.src, bundle.Limits{}, c.want) })
	}
}

// checksum makes a header block consistent again.
func checksum(block []byte) {
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block[:512] {
		sum += int(b)
	}
	for i := range 6 {
		block[148+5-i] = byte('0' + sum>>(3*i)&7)
	}
	block[154] = 0
}

// trickle gives one byte, then ends its context, as a reader that would go on
// for days.
type trickle struct {
	r      io.Reader
	cancel context.CancelFunc
}

func (r trickle) Read(b []byte) (int, error) {
	defer r.cancel()
	return r.r.Read(b[:1])
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	data, src := packed(t, sample(t))
	store := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	err := bundle.Unpack(ctx, trickle{bytes.NewReader(data), cancel}, filepath.Join(store, "b"), src, bundle.Limits{}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	only(t, store)
}

func TestPackRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want error
	}{
		{"no activate", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "activate"))) }, bundle.ErrNoActivate},
		{"activate not executable", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "activate"), 0o644)) }, bundle.ErrNoActivate},
		{"check not executable", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "check"), nil, 0o644))
			must(t, os.Chmod(filepath.Join(dir, "check"), 0o644))
		}, bundle.ErrMode},
		{"deactivate not executable", func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, "deactivate"), nil, 0o644)) }, bundle.ErrMode},
		{"activate a link", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "activate"), filepath.Join(dir, "real")))
			must(t, os.Symlink("real", filepath.Join(dir, "activate")))
		}, bundle.ErrNoActivate},
		{"absolute link", func(t *testing.T, dir string) { must(t, os.Symlink("/etc", filepath.Join(dir, "x"))) }, bundle.ErrLink},
		{"escaping link", func(t *testing.T, dir string) { must(t, os.Symlink("../x", filepath.Join(dir, "x"))) }, bundle.ErrLink},
		{"fifo", func(t *testing.T, dir string) { must(t, syscall.Mkfifo(filepath.Join(dir, "x"), 0o600)) }, bundle.ErrType},
		{"setuid", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "activate"), 0o755|fs.ModeSetuid))
		}, bundle.ErrMode},
		{"newline in a name", func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o600)) }, bundle.ErrName},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := sample(t)
			c.make(t, dir)
			if _, err := bundle.Digest(dir); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := bundle.Digest(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: got %v", err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	data, src := packed(t, sample(t))
	for name, damage := range map[string]func(dir string) error{
		"content":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "check"), []byte("x"), 0o600) },
		"permissions": func(dir string) error { return os.Chmod(filepath.Join(dir, "a/deep/file"), 0o666) },
		"setuid":      func(dir string) error { return os.Chmod(filepath.Join(dir, "check"), 0o755|fs.ModeSetuid) },
		"added":       func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) },
		"removed":     func(dir string) error { return os.Remove(filepath.Join(dir, "a/link")) },
		"link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a/link")), os.Symlink("deep", filepath.Join(dir, "a/link")))
		},
		"gone": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "b")
			must(t, bundle.Unpack(t.Context(), bytes.NewReader(data), dir, src, bundle.Limits{}, nil))
			must(t, damage(dir))
			if err := bundle.Verify(t.Context(), dir, src.Digest, bundle.Limits{}); !errors.Is(err, bundle.ErrDamaged) {
				t.Errorf("got %v, want %v", err, bundle.ErrDamaged)
			}
		})
	}
}
