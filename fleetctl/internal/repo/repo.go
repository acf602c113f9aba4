// Package repo reads and writes the files of a fleet's repository, the
// directory that "fleetctl init" makes and that people commit:
//
//	fleet.yaml                    what the fleet is (package inventory)
//	trust/root/<version>.json     trust roots, DSSE envelopes
//	trust/ca.crt, trust/ca.key.age
//	trust/keys/<name>.age, .pub   keys of the trust root's roles
//	trust/recipients.txt          who can open what is encrypted at rest
//	trust/coordinator.recipient   the coordinator's age recipient
//	trust/coordinator-kit.age     its start-up kit
//	trust/bans.json               machines that are banned
//	trust/draft.json              the next trust root while it is signed
//	trust/operators/<name>.json   operators: role, key, certificate
//	hosts/<machine>.json          keys that hosts sent at enrolment, checked
//	releases/<id>.json            everything published, with its state
//	secrets/<machine>/<name>.age  ciphertext as published, and index.json
//	secrets/<machine>/revoked.json  what it may not have any more
//	ssh/log.jsonl                 certificates, revocations, recovery passwords read
//	ssh/revoked.krl               OpenSSH's list of what was revoked
//	joins/<token hash>.age        join strings, to check host keys with
//
// Every file is replaced atomically.
package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// FleetFile is the file that makes a directory a fleet's repository.
const FleetFile = "fleet.yaml"

// Sentinels that errors of this package wrap.
var (
	ErrNoRepository = errors.New("no fleet repository")
	ErrLocked       = errors.New("another fleetctl is writing to this repository")
	ErrCorrupt      = errors.New("the file is damaged")
)

// Repository is a fleet's repository.
type Repository struct{ dir string }

// At returns the repository in dir without looking at it.
func At(dir string) *Repository { return &Repository{dir: dir} }

// Open finds the repository: dir where it is set, else the nearest directory
// with a fleet.yaml from the working directory upwards.
func Open(dir string) (*Repository, error) {
	if dir != "" {
		if _, err := os.Stat(filepath.Join(dir, FleetFile)); err != nil {
			return nil, ui.WithHint(fmt.Errorf("%w in %s: %w", ErrNoRepository, dir, err), `make one with "fleetctl init"`)
		}
		return At(dir), nil
	}
	at, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the fleet's repository: %w", err)
	}
	for up := at; ; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, FleetFile)); err == nil {
			return At(up), nil
		}
		if up == filepath.Dir(up) {
			return nil, ui.WithHint(fmt.Errorf("%w in %s or above", ErrNoRepository, at), `name it with --dir or FLEET_DIR, or make one with "fleetctl init"`)
		}
	}
}

// Dir is the repository's directory.
func (r *Repository) Dir() string { return r.dir }

// Path is the path of a file of the repository.
func (r *Repository) Path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

// Lock keeps other fleetctl processes from writing to the same checkout until
// the returned function is called; ErrLocked when one does. The lock ends with
// the process, however that ends.
func (r *Repository) Lock() (unlock func(), err error) {
	d, err := os.Open(r.dir)
	if err != nil {
		return nil, fmt.Errorf("locking repository: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ui.WithHint(fmt.Errorf("%w: %s", ErrLocked, r.dir), "wait until it is done, then run this again")
		}
		return nil, fmt.Errorf("locking repository: %w", err)
	}
	return func() { _ = d.Close() }, nil
}

// Read reads a file of at most limit bytes.
func (r *Repository) Read(limit int64, elem ...string) ([]byte, error) {
	path := r.Path(elem...)
	f, err := os.Open(path) //nolint:gosec // A path inside the repository.
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // Only read.
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: %w: more than %d bytes", path, ErrCorrupt, limit)
	}
	return data, nil
}

// noRoom are the errors of a disk, or a quota, without room.
var noRoom = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}

// Write replaces a file, making its directory. Where it fails, the file is as it
// was.
func (r *Repository) Write(data []byte, elem ...string) error {
	path := r.Path(elem...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // What people commit is for everyone to read.
		return explainWrite(fmt.Errorf("writing %s: %w", path, err))
	}
	return explainWrite(atomicfile.WriteFile(path, data, 0o644))
}

func explainWrite(err error) error { return ExplainWrite(err, "this repository") }

// ExplainWrite adds to the error of a write what to do where a disk without room is why;
// of says whose disk. nil for nil.
func ExplainWrite(err error, of string) error {
	if slices.ContainsFunc(noRoom, func(no syscall.Errno) bool { return errors.Is(err, no) }) {
		return ui.WithHint(err, "make room on the disk of "+of+" (bytes and inodes), then run this again")
	}
	return err
}

func (r *Repository) readJSON(limit int64, v any, elem ...string) error {
	data, err := r.Read(limit, elem...)
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(data, int(limit), v); err != nil {
		return ui.WithHint(fmt.Errorf("reading %s: %w: %w", r.Path(elem...), ErrCorrupt, err), "restore it from version control")
	}
	return nil
}

func (r *Repository) writeJSON(v any, elem ...string) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", r.Path(elem...), err)
	}
	return r.Write(append(data, '\n'), elem...)
}
