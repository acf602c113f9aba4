package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

var ecma = crc64.MakeTable(crc64.ECMA)

// sumOf is the checksum of an entry: of key and revision too, so that a value
// under another key, or of another time, is none.
func sumOf(key string, revision uint64, value []byte) uint64 {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], uint64(len(key)))
	binary.BigEndian.PutUint64(head[8:], revision)
	sum := crc64.Update(0, ecma, head[:])
	sum = crc64.Update(sum, ecma, []byte(key))
	return crc64.Update(sum, ecma, value)
}

// tally is what the store as a whole holds: entries that are lost, or came
// back, do not add up to it.
type tally struct {
	revision uint64
	count    uint64
	sum      uint64 // of all entries' checksums, modulo 2^64
}

const tallyLen = 4 * 8

func (t tally) encode() []byte {
	b := make([]byte, 0, tallyLen)
	for _, n := range []uint64{t.revision, t.count, t.sum} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return binary.BigEndian.AppendUint64(b, crc64.Checksum(b, ecma))
}

func decodeTally(b []byte) (tally, error) {
	if len(b) != tallyLen || crc64.Checksum(b[:tallyLen-8], ecma) != binary.BigEndian.Uint64(b[tallyLen-8:]) {
		return tally{}, damage("its tally is malformed")
	}
	return tally{
		revision: binary.BigEndian.Uint64(b), count: binary.BigEndian.Uint64(b[8:]), sum: binary.BigEndian.Uint64(b[16:]),
	}, nil
}

// entryHead is what precedes each value: its revision and its checksum.
const entryHead = 16

func encode(key string, revision uint64, value []byte) []byte {
	b := make([]byte, entryHead, entryHead+len(value))
	binary.BigEndian.PutUint64(b, revision)
	binary.BigEndian.PutUint64(b[8:], sumOf(key, revision, value))
	return append(b, value...)
}

// decode copies: what bbolt hands out is valid only during its transaction.
// The checksum is of the copy, which nothing changes any more.
func decode(key string, raw []byte) (store.KV, uint64, error) {
	raw = append([]byte{}, raw...)
	if len(raw) < entryHead {
		return store.KV{}, 0, fmt.Errorf("reading key %q: %w", key, damage("the value is cut"))
	}
	kv := store.KV{Key: key, Value: raw[entryHead:], Revision: binary.BigEndian.Uint64(raw)}
	sum := binary.BigEndian.Uint64(raw[8:])
	if sumOf(key, kv.Revision, kv.Value) != sum {
		return store.KV{}, 0, fmt.Errorf("reading key %q: %w", key, damage("the value is not what was written"))
	}
	return kv, sum, nil
}

// checkFile reads the whole file before bbolt does, which would trust it. It
// returns a notice where the file is whole, but may have gone back by one
// change. A missing or empty file is none. Errors: store.ErrInUse,
// store.ErrCorrupt, store.ErrNewerFormat, or of the file system.
func checkFile(path string, wait time.Duration) (notice string, err error) {
	f, err := os.Open(path) //nolint:gosec // The caller's own file.
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", explain(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !fi.Mode().IsRegular():
		return "", damage("it is no regular file")
	case fi.Size() == 0:
		return "", nil
	}
	if err := shareLock(f, wait); err != nil {
		return "", err
	}
	return check(f)
}

// shareLock waits until no other process writes the file; closing it unlocks.
func shareLock(f *os.File, wait time.Duration) error {
	const pause = 50 * time.Millisecond
	for left := wait; ; left -= pause {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("locking: %w", err)
		case left <= 0:
			return fmt.Errorf("%w: is a coordinator running already? End it first", store.ErrInUse)
		}
		time.Sleep(min(pause, left))
	}
}

// check judges every byte of the file that means something.
func check(r io.ReaderAt) (notice string, err error) {
	metas, lost, err := readMetas(r)
	if err != nil {
		return "", err
	}
	p := newPages(r, metas[0])
	if f, ok := r.(*os.File); ok {
		if err := p.shorter(f); err != nil {
			return "", err
		}
	}
	if err := p.check(); err != nil {
		return "", err
	}
	if len(lost) > 0 {
		// A power cut while it was being written looks the same; then nobody was
		// told that the change was made.
		notice = fmt.Sprintf("meta page %d of the store is damaged: the last change may be lost; check the disk", lost[0])
	}
	return notice, nil
}

func (p *pages) check() error {
	buckets, err := p.buckets()
	if err != nil {
		return err
	}
	meta, hasMeta := buckets[string(bucketMeta)]
	data, hasData := buckets[string(bucketData)]
	if len(buckets) == 0 {
		return nil // Made, and nothing in it yet.
	}
	if !hasMeta || !hasData || len(buckets) != 2 {
		return damage("its buckets are not those of a store")
	}
	said := map[string][]byte{}
	if err := p.entries(meta, func(_ uint32, key, value []byte) error {
		said[string(key)] = append([]byte{}, value...)
		return nil
	}); err != nil {
		return err
	}
	if err := checkVersion(said[string(keyVersion)]); err != nil {
		return err
	}
	if string(said[string(keyVersion)]) == formatOne {
		if said[string(keyTally)] != nil {
			return damage("format version is %s", formatOne)
		}
		return p.entries(data, func(uint32, []byte, []byte) error { return nil })
	}
	if len(said) != 2 {
		return damage("its description is malformed")
	}
	want, err := decodeTally(said[string(keyTally)])
	if err != nil {
		return err
	}
	have := tally{revision: want.revision}
	if err := p.entries(data, func(_ uint32, key, value []byte) error {
		_, sum, err := decode(string(key), value)
		have.count++
		have.sum += sum
		return err
	}); err != nil {
		return err
	}
	if have != want {
		return damage("%d entries are there, %d were written, or not these", have.count, want.count)
	}
	return nil
}

func checkVersion(version []byte) error {
	n, err := strconv.Atoi(string(version))
	switch {
	case err != nil || n < 1:
		return damage("format version is %q", version)
	case n > Format:
		return fmt.Errorf("%w: its format is %d, this program knows %d: run the newer program, or move the file away (hosts and publishers refill an empty store)",
			store.ErrNewerFormat, n, Format)
	}
	return nil
}
