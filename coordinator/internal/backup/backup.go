// Package backup is the form of a backup of the coordinator: one stream that
// can be written to a file or a pipe, and that shows whether it is whole.
//
//	fleet-backup 1\n      what it is, and its format
//	{"fleet":…}\n         the Manifest
//	…                     the list of blobs, a line "DIGEST SIZE" each
//	…                     the store's file
//	sha256 HEX\n          the digest of all that is before
//
// Blobs themselves are not in it: publishing again uploads what is missing.
package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Format is the version of the form that this program writes and reads.
const Format = 1

var (
	// ErrNoBackup says that what was read is no backup.
	ErrNoBackup = errors.New("this is no backup of a coordinator")
	// ErrDamaged says that a backup is not whole, or not what was written.
	ErrDamaged = errors.New("backup is damaged")
	// ErrNewer says that a newer program wrote it.
	ErrNewer = errors.New("backup was written by a newer version")
	// ErrFailed is the error of a coordinator that was asked for a backup.
	ErrFailed = errors.New("the coordinator could not make the backup")
)

const (
	magic    = "fleet-backup "
	trailer  = "sha256 "
	errLine  = "error "
	maxLine  = 64 << 10
	maxBlobs = 256 << 20 // bytes of the list
	maxStore = 1 << 40
)

// Manifest says what a backup holds.
type Manifest struct {
	Fleet fleet.FleetID `json:"fleet"`
	// Made is when the store was copied.
	Made time.Time `json:"made"`
	// Version of the program that made it.
	Version string `json:"version"`
	// EventSeq and EventHash are the head of the event log.
	EventSeq  uint64 `json:"event_seq"`
	EventHash string `json:"event_hash"`
	// Blobs and BlobBytes count the blobs that were there.
	Blobs     uint64 `json:"blobs"`
	BlobBytes uint64 `json:"blob_bytes"`
	// ListBytes and StoreBytes are the lengths of the two parts.
	ListBytes  uint64 `json:"list_bytes"`
	StoreBytes uint64 `json:"store_bytes"`
}

// Write writes a backup of the list of blobs and the store, of the lengths that
// the manifest says.
func Write(w io.Writer, m Manifest, list, store io.Reader) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	head, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	if _, err := fmt.Fprintf(out, "%s%d\n%s\n", magic, Format, head); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	for _, part := range []struct {
		r io.Reader
		n uint64
	}{{list, m.ListBytes}, {store, m.StoreBytes}} {
		if _, err := io.CopyN(out, part.r, int64(part.n)); err != nil { //nolint:gosec // Lengths of files.
			return fmt.Errorf("writing backup: %w", err)
		}
	}
	if _, err := fmt.Fprintf(w, "%s%x\n", trailer, sum.Sum(nil)); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	return nil
}

// WriteError tells the reader of a stream that there is no backup, and why.
func WriteError(w io.Writer, err error) error {
	_, werr := fmt.Fprintf(w, "%s%s\n", errLine, strings.ReplaceAll(err.Error(), "\n", "; "))
	return werr //nolint:wrapcheck // The caller's own writer.
}

// Read reads a backup to its end and gives its parts to list and store. Only
// when it returns nil are these what was written. Errors: ErrNoBackup,
// ErrDamaged, ErrNewer, ErrFailed, or of reader and writers.
func Read(r io.Reader, list, store io.Writer) (Manifest, error) {
	m, err := read(r, list, store)
	if err != nil {
		return m, fmt.Errorf("reading backup: %w", err)
	}
	return m, nil
}

func read(r io.Reader, list, store io.Writer) (m Manifest, err error) {
	in := &summed{r: bufio.NewReaderSize(r, maxLine), sum: sha256.New()}
	if err := in.checkMagic(); err != nil {
		return m, err
	}
	head, err := in.line()
	if err != nil {
		return m, err
	}
	if err := strictjson.Unmarshal(head, maxLine, &m); err != nil {
		return m, fmt.Errorf("%w: its manifest: %w", ErrDamaged, err)
	}
	if m.ListBytes > maxBlobs || m.StoreBytes > maxStore {
		return m, fmt.Errorf("%w: a list of %d bytes and a store of %d", ErrDamaged, m.ListBytes, m.StoreBytes)
	}
	if err := in.copy(list, m.ListBytes); err != nil {
		return m, err
	}
	if err := in.copy(store, m.StoreBytes); err != nil {
		return m, err
	}
	want := hex.EncodeToString(in.sum.Sum(nil))
	end, err := in.line()
	if err != nil {
		return m, err
	}
	if string(end) != trailer+want {
		return m, fmt.Errorf("%w: its bytes have another digest than its last line: use another copy", ErrDamaged)
	}
	if _, err := in.r.ReadByte(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("%w: something follows its end", errors.Join(ErrDamaged, err))
	}
	return m, nil
}

// summed hashes what is read.
type summed struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (s *summed) checkMagic() error {
	first, err := s.line()
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	text := string(first)
	switch {
	case err == nil && strings.HasPrefix(text, errLine):
		return fmt.Errorf("%w: %.1000q", ErrFailed, strings.TrimPrefix(text, errLine))
	case err != nil || !strings.HasPrefix(text, magic):
		return ErrNoBackup
	case text != fmt.Sprintf("%s%d", magic, Format):
		return fmt.Errorf("%w: format %.20q, this program knows %d: use the newer program", ErrNewer, strings.TrimPrefix(text, magic), Format)
	}
	return nil
}

// line reads one line and returns it without its newline.
func (s *summed) line() ([]byte, error) {
	b, err := s.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%w: it ends within a line, or has none", ErrDamaged)
	case err != nil:
		return nil, err //nolint:wrapcheck // The caller's own reader.
	}
	s.sum.Write(b)
	return append([]byte{}, b[:len(b)-1]...), nil
}

func (s *summed) copy(w io.Writer, n uint64) error {
	_, err := io.CopyN(io.MultiWriter(w, s.sum), s.r, int64(n)) //nolint:gosec // Bounded by the caller.
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it is cut", ErrDamaged)
	}
	return err //nolint:wrapcheck // The caller's own reader and writer.
}
