//go:build linux

// Command secretsbench measures, for make bench, what it takes a host to decrypt and
// install secrets, against just decrypting them and writing files. It prints the
// milliseconds of each pair as JSON.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// pair is the milliseconds of both, one after the other.
type pair struct {
	Bare float64 `json:"bare"`
	Ours float64 `json:"ours"`
}

func main() {
	number := flag.Int("secrets", 100, "how many secrets")
	pairs := flag.Int("pairs", 15, "how many pairs of runs")
	memory := flag.Bool("memory", false, "install into memory, as root")
	dir := flag.String("dir", "", "directory to work in")
	flag.Parse()
	all, err := measure(context.Background(), *dir, *number, *pairs, *memory)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(all)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "secretsbench:", err)
		os.Exit(1)
	}
}

// documents are as generators leave them: of sops, for the machine and two people.
type documents struct {
	id       *age.X25519Identity
	manifest fleet.SecretsManifest
	cipher   map[fleet.Digest][]byte
}

func newDocuments(number int) (*documents, error) {
	d := &documents{cipher: map[fleet.Digest][]byte{}}
	var to []sops.Recipient
	for i := range 3 {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, err
		}
		if i == 0 {
			d.id = id
		}
		r, err := sops.ParseRecipient(id.Recipient().String(), nil)
		if err != nil {
			return nil, err
		}
		to = append(to, r)
	}
	for i := range number {
		value := make([]byte, 64)
		if _, err := rand.Read(value); err != nil {
			return nil, err
		}
		doc, err := sops.Encrypt(value, to, time.Now())
		if err != nil {
			return nil, err
		}
		b := doc.Bytes()
		digest := fleet.DigestOf(b)
		d.cipher[digest] = b
		d.manifest.Entries = append(d.manifest.Entries, fleet.SecretEntry{
			Name: fleet.SecretName(fmt.Sprint("secret-", i)), Version: 1, Format: fleet.FormatSops, Digest: digest, Size: uint64(len(b)),
			Path: fmt.Sprintf("vars/per-machine/m/generator-%d/file", i), Mode: 0o400,
		})
	}
	return d, nil
}

func (d *documents) open(ref fleet.BlobRef) ([]byte, error) { return d.cipher[ref.Digest], nil }

// bare decrypts each and writes it, and nothing else.
func (d *documents) bare(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, e := range d.manifest.Entries {
		doc, err := sops.Parse(d.cipher[e.Digest])
		if err != nil {
			return err
		}
		plain, err := doc.Decrypt(sops.Identity{Identity: d.id})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, string(e.Name)), plain, 0o400)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, dir string, number, pairs int, memory bool) (all []pair, err error) {
	d, err := newDocuments(number)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "secrets")
	r := secrets.Restoration{Memory: memory, Open: d.open, IDs: []age.Identity{d.id}, Log: slog.New(slog.DiscardHandler)}
	if memory {
		// Mounted once, as on a host.
		if err := r.Restore(ctx, root, nil); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, secrets.Unmount(root)) }()
		if !secrets.InMemory(root) {
			return nil, errors.New("nothing was mounted: run it as root, or without -memory")
		}
	}
	for i := range pairs {
		from := time.Now()
		if err := d.bare(filepath.Join(dir, fmt.Sprint("bare-", i))); err != nil {
			return nil, err
		}
		between := time.Now()
		if _, err := secrets.Prepare(ctx, root, d.manifest, fleet.DigestOf([]byte{byte(i)}), d.open, r.IDs); err != nil {
			return nil, err
		}
		ms := func(t time.Duration) float64 { return t.Seconds() * 1000 }
		all = append(all, pair{Bare: ms(between.Sub(from)), Ours: ms(time.Since(between))})
	}
	return all, nil
}
