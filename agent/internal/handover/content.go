package handover

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
)

// sameContent says whether two files have the same content.
func sameContent(a, b string) (equal bool, err error) {
	fa, err := os.Open(a) //nolint:gosec // Programs.
	if err != nil {
		return false, err //nolint:wrapcheck // It names the file.
	}
	defer func() { err = errors.Join(err, fa.Close()) }()
	fb, err := os.Open(b) //nolint:gosec // As above.
	if err != nil {
		return false, err //nolint:wrapcheck // It names the file.
	}
	defer func() { err = errors.Join(err, fb.Close()) }()
	const piece = 64 << 10
	ra, rb := bufio.NewReaderSize(fa, piece), bufio.NewReaderSize(fb, piece)
	for {
		pa, erra := ra.Peek(piece)
		pb, errb := rb.Peek(piece)
		if !bytes.Equal(pa, pb) {
			return false, nil
		}
		for _, err := range []error{erra, errb} {
			if err != nil && !errors.Is(err, io.EOF) {
				return false, err //nolint:wrapcheck // It names the file.
			}
		}
		if erra != nil || errb != nil {
			return (erra != nil) == (errb != nil), nil
		}
		if _, err := ra.Discard(len(pa)); err != nil {
			return false, err //nolint:wrapcheck // As above.
		}
		if _, err := rb.Discard(len(pb)); err != nil {
			return false, err //nolint:wrapcheck // As above.
		}
	}
}
