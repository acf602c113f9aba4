package backup

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func made(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	m := Manifest{
		Fleet: "first", Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "1", EventSeq: 7, EventHash: "ab", Blobs: 1, BlobBytes: 3,
		ListBytes: 12, StoreBytes: 300,
	}
	if err := Write(&buf, m, strings.NewReader("sha256:ab 3\n"), bytes.NewReader(bytes.Repeat([]byte("s"), 300))); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRoundTrip(t *testing.T) {
	var list, store bytes.Buffer
	m, err := Read(bytes.NewReader(made(t)), &list, &store)
	if err != nil || m.EventSeq != 7 || list.String() != "sha256:ab 3\n" || store.String() != strings.Repeat("s", 300) {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestEveryByte flips each byte, cuts at each, and adds one: all is found.
func TestEveryByte(t *testing.T) {
	whole := made(t)
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 0x01
		for name, b := range map[string][]byte{"flipped": b, "cut": whole[:at]} {
			if _, err := Read(bytes.NewReader(b), io.Discard, io.Discard); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBackup) && !errors.Is(err, ErrNewer) {
				t.Errorf("%s at %d: %v", name, at, err)
			}
		}
	}
	if _, err := Read(bytes.NewReader(append(bytes.Clone(whole), 'x')), io.Discard, io.Discard); !errors.Is(err, ErrDamaged) {
		t.Errorf("longer: %v", err)
	}
}

func TestErrors(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteError(&buf, errors.New("disk\nfull")); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(&buf, io.Discard, io.Discard); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "disk; full") {
		t.Error(err)
	}
	if _, err := Read(strings.NewReader("fleet-backup 2\n{}\n"), io.Discard, io.Discard); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	broken := errors.New("broken")
	if _, err := Read(io.MultiReader(strings.NewReader("fleet-"), errReader{broken}), io.Discard, io.Discard); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// FuzzRead: whatever it is given, it ends, with what was written or an error.
func FuzzRead(f *testing.F) {
	f.Add(made(f))
	f.Add([]byte("fleet-backup 1\n{\"store_bytes\":99999999999}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var list, store bytes.Buffer
		m, err := Read(bytes.NewReader(b), &list, &store)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(&again, m, &list, &store); err != nil {
			t.Fatal(err)
		}
	})
}
