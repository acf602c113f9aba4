package carry_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/carry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func blob(text string) carry.Blob {
	return carry.Blob{
		Ref:  fleet.BlobRef{Digest: fleet.DigestOf([]byte(text)), Size: uint64(len(text))},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	}
}

func TestRoundTrip(t *testing.T) {
	want := carry.Documents{Roots: [][]byte{[]byte("r1"), []byte("r2")}, Generation: []byte("g"), Secrets: []byte("s")}
	for _, d := range []carry.Documents{want, {Roots: want.Roots[:1], Generation: want.Generation}} {
		var file bytes.Buffer
		if err := carry.Write(&file, d, []carry.Blob{blob("one"), blob("another")}); err != nil {
			t.Fatal(err)
		}
		r := carry.NewReader(&file)
		got, err := r.Documents()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, want := range []string{"one", "another"} {
			ref, content, err := r.Blob()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(content)
			if err != nil || string(b) != want || ref != blob(want).Ref {
				t.Errorf("got %q of %v, %v; want %q", b, ref, err, want)
			}
		}
		if _, _, err := r.Blob(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last blob: got %v", err)
		}
	}
}

func TestBlobOfAnotherSize(t *testing.T) {
	b := blob("one")
	b.Ref.Size = 2
	d := carry.Documents{Roots: [][]byte{[]byte("r1")}, Generation: []byte("g")}
	if err := carry.Write(io.Discard, d, []carry.Blob{b}); err == nil {
		t.Error("a blob longer than its size was written")
	}
	b.Ref.Size = 5
	if err := carry.Write(io.Discard, d, []carry.Blob{b, blob("another")}); err == nil {
		t.Error("a blob shorter than its size was written")
	}
}

type file struct {
	name string
	data string
	kind byte
}

func archive(t *testing.T, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: f.kind, Size: int64(len(f.data)), Linkname: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestStrangeFiles(t *testing.T) {
	root, gen := file{name: "roots/1", data: "r"}, file{name: "generation", data: "g"}
	for name, data := range map[string][]byte{
		"nothing":            nil,
		"no tar":             []byte(strings.Repeat("x", 2048)),
		"cut off":            archive(t, root, gen)[:700],
		"no root":            archive(t, gen),
		"no generation":      archive(t, root),
		"roots out of order": archive(t, file{name: "roots/2", data: "r"}, gen),
		"root after":         archive(t, root, gen, file{name: "roots/2", data: "r"}),
		"two generations":    archive(t, root, gen, gen),
		"secrets first":      archive(t, root, file{name: "secrets", data: "s"}, gen),
		"link":               archive(t, root, file{name: "generation", kind: tar.TypeSymlink}),
		"another entry":      archive(t, root, gen, file{name: "../x", data: "x"}),
		"empty document":     archive(t, root, file{name: "generation"}),
		"large document":     archive(t, root, file{name: "generation", data: strings.Repeat("x", 2*fleet.MaxDocumentBytes+1)}),
		"blob before all":    archive(t, file{name: "blobs/" + fleet.DigestOf(nil).Hex()}, root, gen),
	} {
		if _, err := carry.NewReader(bytes.NewReader(data)).Documents(); !errors.Is(err, carry.ErrFile) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r := carry.NewReader(bytes.NewReader(archive(t, root, gen, file{name: "blobs/" + fleet.DigestOf(nil).Hex()}, file{name: "blobs/x"})))
	if _, err := r.Documents(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Blob(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Blob(); !errors.Is(err, carry.ErrFile) {
		t.Errorf("blob without a digest: got %v", err)
	}
}

func FuzzReader(f *testing.F) {
	var good bytes.Buffer
	if err := carry.Write(&good, carry.Documents{Roots: [][]byte{[]byte("r")}, Generation: []byte("g")}, []carry.Blob{blob("x")}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := carry.NewReader(bytes.NewReader(data))
		if _, err := r.Documents(); err != nil {
			return
		}
		for range 100 {
			_, content, err := r.Blob()
			if err != nil {
				return
			}
			if n, _ := io.Copy(io.Discard, content); n > int64(len(data)) && n > 1<<20 {
				t.Errorf("%d bytes out of %d", n, len(data))
			}
		}
	})
}
