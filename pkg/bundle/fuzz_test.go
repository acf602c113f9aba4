package bundle_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// FuzzUnpack takes any bytes.
func FuzzUnpack(f *testing.F) {
	f.Add(makeTar(f, activateHeader))
	f.Add(makeTar(f, activateHeader, dir("b"), file("b/c"), link("b/d", "c")))
	f.Add(makeTar(f, activateHeader, link("b", "../x"), file("b/c")))
	f.Add(makeTar(f, activateHeader, file("b"+strings.Repeat("/x", 60))))
	f.Fuzz(unpackAny)
}

// FuzzEntries takes tars that are well-formed and say anything.
func FuzzEntries(f *testing.F) {
	f.Add("b", "", byte(tar.TypeDir), "b/c", "../activate", byte(tar.TypeSymlink), int64(0o755))
	f.Add("b", "..", byte(tar.TypeSymlink), "b/x", "", byte(tar.TypeReg), int64(0o644))
	f.Add("b", "c/..", byte(tar.TypeSymlink), "c", ".", byte(tar.TypeSymlink), int64(0o777))
	f.Add("../x", "", byte(tar.TypeReg), "/x", "activate", byte(tar.TypeLink), int64(0o4755))
	f.Fuzz(func(t *testing.T, name1, link1 string, type1 byte, name2, link2 string, type2 byte, mode int64) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			activateHeader,
			{Name: name1, Linkname: link1, Typeflag: type1, Mode: mode},
			{Name: name2, Linkname: link2, Typeflag: type2, Mode: 0o777},
		} {
			if h.Typeflag == tar.TypeSymlink {
				h.Mode = 0o777
			}
			if w.WriteHeader(&h) != nil {
				return
			}
		}
		must(t, w.Close())
		unpackAny(t, b.Bytes())
	})
}

// unpackAny holds what is true of any tar: nothing lands outside, nothing
// stays of what is refused, and what is taken is what packing it gives.
func unpackAny(t *testing.T, data []byte) {
	top := t.TempDir()
	store := filepath.Join(top, "store")
	must(t, os.Mkdir(store, 0o700))
	built := filepath.Join(store, "b")
	src := fleet.BundleSource{Digest: fleet.DigestOf(data), Size: uint64(len(data))}
	err := bundle.Unpack(t.Context(), bytes.NewReader(data), built, src, bundle.Limits{}, nil)
	only(t, top, "store")
	if err != nil {
		only(t, store)
		return
	}
	only(t, store, "b")
	must(t, bundle.Verify(t.Context(), built, src.Digest, bundle.Limits{}))
	top, err = filepath.EvalSymlinks(built) // from here on without links of the test's own
	must(t, err)
	must(t, filepath.WalkDir(built, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink == 0 {
			return err
		}
		// Links may lead nowhere, but not out.
		if to, err := filepath.EvalSymlinks(path); err == nil && to != top && !strings.HasPrefix(to, top+"/") {
			t.Errorf("link %s leads to %s", path, to)
		}
		return nil
	}))
}
