// Package carry is the file in which one signed generation travels to its host
// by hand, where no coordinator can bring it.
//
// The file is a tar of regular files in this order:
//
//	roots/<version>      trust roots as they were signed, oldest first
//	generation           the generation's envelope
//	secrets              its secrets manifest's envelope; absent where it has none
//	blobs/<hex digest>   everything that the two name, each once
//
// Documents come first, so that a reader can verify them before it takes a
// single byte of a blob; nothing in the file is trusted for being there.
package carry

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Limits of a file.
const (
	// maxRoots bounds the chain of trust roots.
	maxRoots = 10_000
	// maxDocumentBytes bounds one envelope: the largest document in base64, and
	// its signatures.
	maxDocumentBytes = 2 * fleet.MaxDocumentBytes
)

// ErrFile is wrapped by every error about a file that is none of these, or is
// damaged.
var ErrFile = errors.New("not a carried generation")

// Documents are the envelopes, none of them verified.
type Documents struct {
	Roots      [][]byte
	Generation []byte
	Secrets    []byte // nil where there is none
}

// Blob is a blob to be written.
type Blob struct {
	Ref fleet.BlobRef
	// Open returns the content, Ref.Size bytes.
	Open func() (io.ReadCloser, error)
}

// Write writes the documents and then the blobs.
func Write(w io.Writer, d Documents, blobs []Blob) error {
	tw := tar.NewWriter(w)
	for i, root := range d.Roots {
		if err := entry(tw, "roots/"+strconv.Itoa(i+1), root); err != nil {
			return err
		}
	}
	if err := entry(tw, "generation", d.Generation); err != nil {
		return err
	}
	if d.Secrets != nil {
		if err := entry(tw, "secrets", d.Secrets); err != nil {
			return err
		}
	}
	for _, b := range blobs {
		if err := writeBlob(tw, b); err != nil {
			return fmt.Errorf("writing blob %s: %w", b.Ref.Digest.Short(), err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("writing carried generation: %w", err)
	}
	return nil
}

func entry(tw *tar.Writer, name string, data []byte) error {
	err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))})
	if err == nil {
		_, err = tw.Write(data)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func writeBlob(tw *tar.Writer, b Blob) error {
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	size := int64(b.Ref.Size) //nolint:gosec // Bounded by the documents that name it.
	if err := tw.WriteHeader(&tar.Header{Name: "blobs/" + b.Ref.Digest.Hex(), Mode: 0o644, Size: size}); err != nil {
		return err //nolint:wrapcheck // The caller says what failed.
	}
	_, err = io.Copy(tw, r)
	return err //nolint:wrapcheck // The caller says what failed.
}

// Reader reads a file once, front to back.
type Reader struct {
	tar *tar.Reader
	// next is a header that was read too early; nil when there is none.
	next *tar.Header
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{tar: tar.NewReader(r)} }

// Documents reads the envelopes; it is to be called first. A file without a
// trust root or generation, or with anything else before the blobs, is ErrFile.
func (r *Reader) Documents() (Documents, error) {
	var d Documents
	for {
		h, err := r.header()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d, err
		}
		if strings.HasPrefix(h.Name, "blobs/") {
			r.next = h
			break
		}
		data, err := r.document(h)
		if err != nil {
			return d, err
		}
		switch {
		case h.Name == "roots/"+strconv.Itoa(len(d.Roots)+1) && len(d.Roots) < maxRoots && d.Generation == nil:
			d.Roots = append(d.Roots, data)
		case h.Name == "generation" && d.Generation == nil:
			d.Generation = data
		case h.Name == "secrets" && d.Secrets == nil && d.Generation != nil:
			d.Secrets = data
		default:
			return d, fmt.Errorf("%w: unexpected entry %.80q", ErrFile, h.Name)
		}
	}
	if len(d.Roots) == 0 || d.Generation == nil {
		return d, fmt.Errorf("%w: it has no trust root or no generation", ErrFile)
	}
	return d, nil
}

func (r *Reader) document(h *tar.Header) ([]byte, error) {
	if h.Size == 0 || h.Size > maxDocumentBytes {
		return nil, fmt.Errorf("%w: %.80q has %d bytes, want 1 to %d", ErrFile, h.Name, h.Size, maxDocumentBytes)
	}
	data, err := io.ReadAll(r.tar)
	if err != nil {
		return nil, fmt.Errorf("%w: reading %.80q: %w", ErrFile, h.Name, err)
	}
	return data, nil
}

// Blob returns the next blob: its size, and its content to be read before the
// next call. Neither digest nor size are verified. After the last one it
// returns io.EOF.
func (r *Reader) Blob() (fleet.BlobRef, io.Reader, error) {
	h, err := r.header()
	if err != nil {
		return fleet.BlobRef{}, nil, err
	}
	hex, ok := strings.CutPrefix(h.Name, "blobs/")
	digest, err := fleet.ParseDigest("sha256:" + hex)
	if !ok || err != nil {
		return fleet.BlobRef{}, nil, fmt.Errorf("%w: unexpected entry %.80q", ErrFile, h.Name)
	}
	return fleet.BlobRef{Digest: digest, Size: uint64(h.Size)}, r.tar, nil //nolint:gosec // Not negative.
}

// header returns the next header, or io.EOF as it is.
func (r *Reader) header() (*tar.Header, error) {
	if h := r.next; h != nil {
		r.next = nil
		return h, nil
	}
	h, err := r.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	case h.Typeflag != tar.TypeReg || h.Size < 0:
		return nil, fmt.Errorf("%w: %.80q is no regular file", ErrFile, h.Name)
	}
	return h, nil
}
