//go:build linux

package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ackedIn finds up to which transition a host says that it was acknowledged, in the
// records of its journal.
var ackedIn = regexp.MustCompile(`"acked":([0-9]+)`)

// steps finds the records of a host's journal that say what became of an activation.
var steps = regexp.MustCompile(`"kind":"(activating|activated|held|rolling-back|rolled-back|verified)"`)

// lastStep is the newest of them; empty where there is none.
func (w *world) lastStep() string {
	data, _ := os.ReadFile(w.path("host", "journal"))
	all := steps.FindAllSubmatch(data, -1)
	if len(all) == 0 {
		return ""
	}
	return string(all[len(all)-1][1])
}

// transitions checks that the coordinator has what it acknowledged to the host, which
// drops it then.
func (w *world) transitions() error {
	files, err := filepath.Glob(w.path("host", "journal"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("journals are %q: %w", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	var told uint64
	for _, m := range ackedIn.FindAllSubmatch(data, -1) {
		n, err := strconv.ParseUint(string(m[1]), 10, 64)
		if err != nil {
			return err
		}
		told = max(told, n)
	}
	var observed struct {
		Acked uint64 `json:"acked"`
	}
	if err := w.stored("host/"+machine, &observed); err != nil {
		return err
	}
	if told > observed.Acked {
		return fmt.Errorf("the host was told that its transitions up to %d are durable, the coordinator has those up to %d", told, observed.Acked)
	}
	return nil
}

// stored reads a record of the coordinator's store; none leaves v as it is.
func (w *world) stored(key string, v any) error {
	return w.inStore(func(data *bbolt.Bucket) error {
		raw := data.Get([]byte(key))
		if len(raw) < storedHead {
			return nil
		}
		return json.Unmarshal(raw[storedHead:], v)
	})
}

// storedHead is the length of what is before each value in the store: revision and
// checksum, which the store itself checks.
const storedHead = 16

// inStore reads the coordinator's store from its file.
func (w *world) inStore(read func(data *bbolt.Bucket) error) (err error) {
	db, err := bbolt.Open(w.path("coordinator", "fleet.db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error { return read(tx.Bucket([]byte("data"))) })
}

// lastGood checks that what runs, and what the host says is its last good
// generation, are whole on the host.
func (w *world) lastGood() error {
	if w.running() == "" || w.linked() != w.running() {
		return fmt.Errorf("the bundle of %q, which runs, is gone", w.running())
	}
	if w.good == "" || w.good == "0" {
		return nil // There is none yet.
	}
	bundle, err := w.bundleOf(w.good)
	if err != nil {
		return err
	}
	if _, err := os.Stat(w.path("host", "bundles", "store", bundle.Hex(), "version")); err != nil {
		return fmt.Errorf("the bundle of last-good, %s, is gone: %w", w.good, err)
	}
	return nil
}

// bundleOf finds in the repository which bundle a generation has.
func (w *world) bundleOf(number string) (fleet.Digest, error) {
	files, err := filepath.Glob(w.path("fleet", "releases", "*.json"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		var rel struct {
			Generations []struct {
				Number     fleet.Number
				Generation []byte
			}
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal(data, &rel); err != nil {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		for _, g := range rel.Generations {
			if g.Number.String() != number {
				continue
			}
			var envelope struct{ Payload string }
			var doc fleet.Generation
			err := json.Unmarshal(g.Generation, &envelope)
			var payload []byte
			if err == nil {
				payload, err = base64.StdEncoding.DecodeString(envelope.Payload)
			}
			if err == nil {
				err = json.Unmarshal(payload, &doc)
			}
			if err != nil || doc.Source.Bundle == nil {
				return "", fmt.Errorf("%s: generation %s: no bundle: %w", f, number, err)
			}
			return doc.Source.Bundle.Digest, nil
		}
	}
	return "", fmt.Errorf("last-good, %s, is in no release", number)
}
