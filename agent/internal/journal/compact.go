package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// pendingPerLine bounds the lines that carry the outbox.
	pendingPerLine = 256
	// maxMessageBytes and maxHintBytes bound a reason.
	maxMessageBytes = fleet.MaxReasonBytes * 3 / 4
	maxHintBytes    = fleet.MaxReasonBytes - maxMessageBytes
)

// compacted is the state as lines: a snapshot, then what wasn't acknowledged.
func compacted(s *State, at Record) ([][]byte, error) {
	at.Kind, at.Seq, at.Snapshot = KindSnapshot, s.Seq, s
	recs := []Record{at}
	for part := range slices.Chunk(s.outbox, pendingPerLine) {
		recs = append(recs, Record{Kind: KindPending, Seq: s.Seq, Time: at.Time, Pending: part})
	}
	lines := make([][]byte, 0, len(recs))
	for i := range recs {
		line, err := encode(recs[i : i+1])
		if err != nil {
			return nil, err
		}
		if len(line) > maxLineBytes {
			return nil, fmt.Errorf("%w: snapshot of %d bytes", ErrTooLarge, len(line))
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// maybeCompact rewrites the journal when most of it is dead. A failure costs
// only disk space, and is tried again when the file has grown further.
func (j *Journal) maybeCompact() {
	if j.size < j.compactAt {
		return
	}
	lines, err := compacted(j.state, Record{Time: j.now().UTC().Round(0)})
	if err != nil {
		j.compactAt = j.size + compactMin
		j.log.Warn("compacting the journal failed; it goes on growing", "error", err)
		return
	}
	var live int64
	for _, l := range lines {
		live += int64(len(l))
	}
	j.compactAt = max(compactMin, 2*live)
	if j.size < j.compactAt {
		return
	}
	if err := j.replace(lines, live); err != nil {
		j.compactAt = j.size + compactMin
		j.log.Warn("compacting the journal failed; it goes on growing", "error", err)
		return
	}
	j.log.Debug("compacted the journal", "bytes", live)
}

// replace puts a new file in the journal's place. Until the rename the old one
// counts, afterwards the new one, and both fold to the same state.
func (j *Journal) replace(lines [][]byte, size int64) error {
	crashpoint.Hit(crashpoint.JournalCompact)
	err := atomicfile.Write(j.path(), 0o600, func(w io.Writer) error {
		for _, l := range lines {
			if _, err := w.Write(l); err != nil {
				return err
			}
		}
		return nil
	})
	// Whatever the error: where the rename happened, the old file is dead and
	// must not be written any more; where it may not be durable, neither.
	f, oerr := os.OpenFile(j.path(), os.O_RDWR|os.O_APPEND, 0o600)
	if oerr != nil {
		j.broken = errors.Join(err, oerr)
		return j.broken
	}
	if err != nil {
		if same, serr := j.inPlace(f); serr != nil || !same {
			j.broken = errors.Join(err, serr)
		}
		_ = f.Close()
		return err
	}
	_ = j.file.Close()
	j.file, j.size = f, size
	crashpoint.Hit(crashpoint.JournalCompacted)
	return nil
}

// inPlace says whether f is the file that the journal has been writing.
func (j *Journal) inPlace(f *os.File) (bool, error) {
	was, err := j.file.Stat()
	if err != nil {
		return false, err
	}
	is, err := f.Stat()
	return err == nil && os.SameFile(was, is), err
}

// bounded cuts a reason's texts to what a report may carry.
func bounded(r fleet.Reason) fleet.Reason {
	r.Message = cut(r.Message, maxMessageBytes)
	r.Hint = cut(r.Hint, maxHintBytes)
	return r
}

func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	const mark = "…"
	n := most - len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
