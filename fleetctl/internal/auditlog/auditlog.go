// Package auditlog verifies the coordinator's event log away from the
// coordinator: an export is the records as they are stored, one a line, each of
// which names the SHA-256 of the one before.
//
// Whoever can write the store could compute a whole new chain. That shows only
// against what others remember: heads that operators countersigned, or an
// earlier export.
package auditlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// MaxRecord bounds a record, in bytes: a message at its limit, all of it escaped.
const MaxRecord = 64 << 10

// Sentinels that errors of this package wrap.
var (
	// ErrBroken is a log that is not what was written.
	ErrBroken = errors.New("the event log is not what was written")
	// ErrRecord is a line that is no record.
	ErrRecord = errors.New("it is no record of an event log")
)

// Record is one event as it is stored.
type Record struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Prev    string    `json:"prev"`
	Actor   string    `json:"actor"`
	Kind    string    `json:"kind"`
	Machine string    `json:"machine"`
	Message string    `json:"message"`
	Alarm   bool      `json:"alarm"`
}

// Head is what somebody knows of a log: the number and hash of a record. Heads
// that were countersigned are verified elsewhere, and handed to Verify.
type Head struct {
	Seq  uint64
	Hash string
}

// origin is what the first record chains to.
var origin = strings.Repeat("0", 2*sha256.Size)

// HashOf is the hash by which the next record names this one.
func HashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// Parse reads a record, which is one line without its end.
func Parse(line []byte) (*Record, error) {
	// They would end the line. Others that act on a terminal JSON may have raw: what a
	// host said is in there, and is made plain where it is shown.
	if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
		return nil, fmt.Errorf("%w: a control character", ErrRecord)
	}
	r := &Record{}
	if err := strictjson.Unmarshal(line, MaxRecord, r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if r.Seq == 0 || len(r.Prev) != len(origin) || r.Kind == "" {
		return nil, fmt.Errorf("%w: it has no number, kind or predecessor", ErrRecord)
	}
	return r, nil
}

// ParseHead reads a head as SEQ:HASH.
func ParseHead(s string) (Head, error) {
	var h Head
	seq, hash, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	h.Seq = n
	if err != nil || !ok || seq != strconv.FormatUint(n, 10) || h.Seq == 0 || len(hash) != len(origin) || strings.Trim(hash, "0123456789abcdef") != "" {
		return h, fmt.Errorf("%.100q is no head: want NUMBER:HASH, as audit verify prints it", s)
	}
	h.Hash = hash
	return h, nil
}

// Verifier checks records one after the other. The zero value begins a log.
type Verifier struct {
	// Known are heads that must be on the chain.
	Known []Head
	// Each is called with each record that is in its place; nil for none.
	Each func(*Record) error

	first uint64
	last  Head

	met int
}

// Begun is the number of the first record; 0 for none yet.
func (v *Verifier) Begun() uint64 { return v.first }

// Head is the last record that was in its place.
func (v *Verifier) Head() Head { return v.last }

// Add checks the next record. The error wraps ErrBroken and names the first
// record that is not in its place.
func (v *Verifier) Add(line []byte) error {
	r, err := Parse(line)
	if err != nil {
		return fmt.Errorf("after record %d: %w", v.last.Seq, err)
	}
	switch {
	case v.first == 0 && r.Seq == 1 && r.Prev != origin:
		return fmt.Errorf("%w: record 1 follows something", ErrBroken)
	case v.first == 0:
		v.first = r.Seq
		if h := (Head{r.Seq - 1, r.Prev}); r.Seq > 1 {
			if err := v.checkKnown(h); err != nil {
				return err
			}
		}
	case r.Seq != v.last.Seq+1:
		return fmt.Errorf("%w: record %d is missing: record %d follows %d", ErrBroken, v.last.Seq+1, r.Seq, v.last.Seq)
	case r.Prev != v.last.Hash:
		return fmt.Errorf("%w: record %d is not the one that record %d follows", ErrBroken, v.last.Seq, r.Seq)
	}
	h := Head{r.Seq, HashOf(line)}
	if err := v.checkKnown(h); err != nil {
		return err
	}
	v.last = h
	if v.Each != nil {
		return v.Each(r)
	}
	return nil
}

func (v *Verifier) checkKnown(h Head) error {
	for _, k := range v.Known {
		if k.Seq != h.Seq {
			continue
		}
		if k.Hash != h.Hash {
			return fmt.Errorf("%w: record %d is not the one that was known", ErrBroken, h.Seq)
		}
		v.met++
	}
	return nil
}

// Finish says whether the log reaches all known heads that it should have.
func (v *Verifier) Finish() error {
	for _, k := range v.Known {
		if k.Seq > v.last.Seq {
			return fmt.Errorf("%w: it ends with record %d, and record %d is known", ErrBroken, v.last.Seq, k.Seq)
		}
	}
	return nil
}

// Met counts the known heads that were found.
func (v *Verifier) Met() int { return v.met }

// Read checks the lines of an export. Records that were there already, because
// two exports overlap, must be the same: at names the hashes of records read so
// far, and may be nil.
func (v *Verifier) Read(r io.Reader, at map[uint64]string) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), MaxRecord+1)
	for s.Scan() {
		line := s.Bytes()
		rec, err := Parse(line)
		if err == nil && v.first != 0 && rec.Seq <= v.last.Seq && at != nil {
			if want, ok := at[rec.Seq]; ok && want != HashOf(line) {
				return fmt.Errorf("%w: two exports have another record %d", ErrBroken, rec.Seq)
			}
			continue
		}
		if err := v.Add(line); err != nil {
			return err
		}
		if at != nil {
			at[v.last.Seq] = v.last.Hash
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("after record %d: %w: %w", v.last.Seq, ErrRecord, err)
	}
	return nil
}
