// Command restorer restores one set of secrets into memory, so that a test can kill it at
// each point: restorer ROOT DIR, where DIR has key, manifest.json and a file for each
// ciphertext, by digest.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func main() {
	if err := restore(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func restore(root, dir string) error {
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	id, err := age.ParseX25519Identity(string(key))
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return err
	}
	set := secrets.Set{Digest: fleet.DigestOf(data)}
	if err := json.Unmarshal(data, &set.Manifest); err != nil {
		return err
	}
	return secrets.Restoration{
		Memory: true, IDs: []age.Identity{id}, Log: slog.New(slog.DiscardHandler),
		Open: func(ref fleet.BlobRef) ([]byte, error) { return os.ReadFile(filepath.Join(dir, ref.Digest.Hex())) },
	}.Restore(context.Background(), root, []secrets.Set{set})
}
