package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits on lines, newline included. Readers take more than writers write, so
// that a snapshot may be larger than any record.
const (
	maxAppendBytes = 4 << 20
	maxLineBytes   = 32 << 20
	prefixBytes    = 9 // checksum and space
)

// ErrCorrupt says that the journal holds a line that is wrong and that no
// interrupted write has made. Recover leads out.
var ErrCorrupt = errors.New("journal is corrupt")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errTorn     = errors.New("the line is incomplete")
	errChecksum = errors.New("the checksum is wrong")
	errTooLong  = errors.New("the line is too long")
)

// encode makes one line of a batch.
func encode(recs []Record) ([]byte, error) {
	line := append(make([]byte, 0, 512), "00000000 "...)
	buf := bytes.NewBuffer(line)
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(recs); err != nil { // ends with a newline
		return nil, fmt.Errorf("encoding records: %w", err)
	}
	line = buf.Bytes()
	hex.Encode(line, checksum(line[prefixBytes:len(line)-1]))
	return line, nil
}

func checksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// decode reads one line, without its newline.
func decode(line []byte) ([]Record, error) {
	if len(line) < prefixBytes || line[prefixBytes-1] != ' ' {
		return nil, errTorn
	}
	// As text, so that no digit may change, not even to a capital letter.
	if hex.EncodeToString(checksum(line[prefixBytes:])) != string(line[:prefixBytes-1]) {
		return nil, errChecksum
	}
	var recs []Record
	if err := json.Unmarshal(line[prefixBytes:], &recs); err != nil {
		return nil, fmt.Errorf("decoding records: %w", err)
	}
	return recs, nil
}

// scanned is what a reading of the file found.
type scanned struct {
	state *State
	// good bytes from the start; torn bytes after them belong to a write that
	// was never acknowledged.
	good, torn int64
}

// scan folds a journal. name is for errors. A torn tail is no error.
func scan(r io.Reader, name string) (scanned, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	out := scanned{state: newState()}
	for n := 1; ; n++ {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return out, nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errTooLong) {
			return out, fmt.Errorf("reading journal %s: %w", name, err)
		}
		var recs []Record
		bad := err
		switch {
		case bad == nil:
			recs, bad = decode(line[:len(line)-1])
		case errors.Is(bad, io.EOF):
			bad = errTorn
		}
		if bad != nil {
			rest, err := io.Copy(io.Discard, br)
			switch {
			case err != nil:
				return out, fmt.Errorf("reading journal %s: %w", name, err)
			case rest == 0 && (errors.Is(bad, errTorn) || errors.Is(bad, errChecksum)) && tornOff(line):
				out.torn = int64(len(line))
				return out, nil
			}
			return out, corrupt(name, n, bad)
		}
		for i := range recs {
			if err := apply(out.state, &recs[i]); err != nil {
				return out, corrupt(name, n, err)
			}
		}
		out.good += int64(len(line))
	}
}

// unwritten is how many zeros in a row say that a part of a line never reached
// the disk: the text of a line has none, and rot makes single ones.
const unwritten = 8

// tornOff says whether a bad last line is what an interrupted write leaves:
// its beginning, or parts that are all zeros. One that is there in whole length
// and differs otherwise was written, maybe acknowledged, and changed since.
func tornOff(line []byte) bool {
	if bytes.Contains(line, make([]byte, unwritten)) {
		return true
	}
	if line[len(line)-1] == '\n' {
		return false
	}
	// Whole but for its newline, which is another byte now.
	_, err := decode(line[:len(line)-1])
	return err != nil
}

func corrupt(name string, line int, err error) error {
	return fmt.Errorf("%w: %s line %d: %w; what runs is left alone; check the disk, then run \"fleet-agent recover\", "+
		"which keeps the damaged file and starts anew from what runs", ErrCorrupt, name, line, err)
}

// readLine reads up to and with the next newline; io.EOF where there is none.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		case len(line) > maxLineBytes:
			return line, errTooLong
		}
	}
}
