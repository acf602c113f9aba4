// Package secrets installs the secrets of a signed manifest: decrypts them with
// the machine's key into a directory that a link is pointed at afterwards, so
// that services see all secrets of one manifest or all of another.
//
// For a link at root, the directories are root.d/<manifest digest, 12 digits>: not
// numbers, because the journal, and with it the way back that needs no agent, says where
// a generation's secrets are, also after a boot that made them anew in memory (Restore).
package secrets

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/cameronraysmith/fleet/pkg/atomicdir"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Sentinels: why secrets cannot be installed. Only ErrCiphertext may go away by
// fetching again.
var (
	ErrPath       = errors.New("secret has a refused path")
	ErrMode       = errors.New("secret has a refused mode")
	ErrOwner      = errors.New("secret's owner or group cannot be given")
	ErrTooLarge   = errors.New("secrets are too large")
	ErrCiphertext = errors.New("secret's ciphertext is not the one that was signed")
	ErrDecrypt    = errors.New("secret cannot be decrypted with this machine's key")
)

// Limits beside those of package fleet.
const (
	// MaxTotalBytes bounds the plaintext of one manifest.
	MaxTotalBytes = 64 << 20
	// maxCiphertextBytes leaves room for the headers of many recipients and
	// for armor.
	maxCiphertextBytes = 2*fleet.MaxSecretBytes + 256<<10
	defaultMode        = 0o400
	tempPrefix         = ".tmp-"
)

// Open returns the ciphertext of a blob that was fetched.
type Open func(fleet.BlobRef) ([]byte, error)

// Dir is where the secrets of a manifest are for a link at root.
func Dir(root string, manifest fleet.Digest) string {
	return filepath.Join(root+".d", manifest.Short())
}

// LinkStep points the link at root at what Prepare returned; "" takes it away.
func LinkStep(root, path string) driver.Step {
	return driver.Step{Link: &driver.Link{Path: root, Target: path}}
}

// Current returns where the link at root points, or "" where there is none.
func Current(root string) (string, error) {
	target, err := os.Readlink(root)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading secrets link: %w; move away what is there", err)
	}
	return target, nil
}

// Prepare decrypts all secrets of a manifest with the given digest into their
// directory and returns it, durable; the link is left alone. What is there
// already is compared and put right. A preparation that fails leaves no
// plaintext behind. The caller has verified the manifest.
func Prepare(ctx context.Context, root string, manifest fleet.SecretsManifest, digest fleet.Digest, open Open, ids []age.Identity) (string, error) {
	set := Set{Manifest: manifest, Digest: digest}
	if err := set.prepare(ctx, root+".d", open, ids); err != nil {
		return "", fmt.Errorf("preparing secrets: %w", err)
	}
	return Dir(root, digest), nil
}

// Set is what one manifest makes.
type Set struct {
	Manifest fleet.SecretsManifest
	Digest   fleet.Digest
	// Name is that of its directory; by default Digest's.
	Name string
	// early leaves out all but what is needed before there are users, whom files
	// could be given to.
	early bool
}

// partial marks a set that was made early: the rest of it is to follow.
const partial = ".partial"

func (s Set) name() string { return cmp.Or(s.Name, s.Digest.Short()) }

// prepare makes the set below dir.
func (s Set) prepare(ctx context.Context, dir string, open Open, ids []age.Identity) (err error) {
	if _, err := fleet.ParseDigest(string(s.Digest)); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	manifest := s.Manifest
	if s.early {
		manifest.Entries = slices.DeleteFunc(slices.Clone(manifest.Entries), func(e fleet.SecretEntry) bool { return !e.NeededFor.Early() })
	}
	files, err := plan(manifest)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, s.name())
	// A fixed name: what a crash left under it is removed here.
	tmp := filepath.Join(dir, tempPrefix+s.name())
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.SecretsPrepare)
	for _, d := range []string{dir, tmp} {
		if err := makeDir(d); err != nil {
			return err
		}
	}
	if err := fill(ctx, tmp, files, open, ids); err != nil {
		return err
	}
	if s.early {
		if err := os.WriteFile(filepath.Join(tmp, partial), nil, 0o600); err != nil {
			return err
		}
	}
	crashpoint.Hit(crashpoint.SecretsFilled)
	if same(tmp, path) {
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		return atomicdir.Sync(path)
	}
	if err := atomicdir.Publish(tmp, path); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.SecretsPrepared)
	return nil
}

// fill decrypts files into dir.
func fill(ctx context.Context, dir string, files []file, open Open, ids []age.Identity) (err error) {
	top, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	total := 0
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		plain, err := decrypt(f.entry, open, ids)
		if err != nil {
			return fmt.Errorf("secret %s: %w", f.entry.Name, err)
		}
		total += len(plain)
		if total > MaxTotalBytes {
			clear(plain)
			return fmt.Errorf("%w: more than %d bytes in all", ErrTooLarge, MaxTotalBytes)
		}
		err = f.write(top, plain)
		clear(plain)
		if err == nil {
			err = f.link(top)
		}
		if err != nil {
			return fmt.Errorf("secret %s: %w", f.entry.Name, err)
		}
	}
	return nil
}

func decrypt(e fleet.SecretEntry, open Open, ids []age.Identity) ([]byte, error) {
	if e.Size > maxCiphertextBytes {
		return nil, fmt.Errorf("%w: ciphertext of %d bytes, at most %d are allowed", ErrTooLarge, e.Size, maxCiphertextBytes)
	}
	cipher, err := open(fleet.BlobRef{Digest: e.Digest, Size: e.Size})
	if err != nil {
		return nil, fmt.Errorf("reading ciphertext: %w", err)
	}
	if uint64(len(cipher)) != e.Size {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrCiphertext, len(cipher), e.Size)
	}
	if got := fleet.DigestOf(cipher); got != e.Digest {
		return nil, fmt.Errorf("%w: digest %s instead of %s", ErrCiphertext, got.Short(), e.Digest.Short())
	}
	if e.Format == fleet.FormatSops {
		return decryptDocument(cipher, ids)
	}
	var in io.Reader = bytes.NewReader(cipher)
	if bytes.HasPrefix(cipher, []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, ids...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrDecrypt, whyNot(err))
	}
	// One byte more shows what is too large.
	plain, err := io.ReadAll(io.LimitReader(r, fleet.MaxSecretBytes+1))
	switch {
	case err != nil:
		clear(plain)
		return nil, fmt.Errorf("%w: it is damaged or cut short; encrypt it again", ErrDecrypt)
	case len(plain) > fleet.MaxSecretBytes:
		clear(plain)
		return nil, fmt.Errorf("%w: plaintext of more than %d bytes", ErrTooLarge, fleet.MaxSecretBytes)
	}
	return plain, nil
}

// decryptDocument opens a document of sops. No error of that package has anything of the
// value in it.
func decryptDocument(cipher []byte, ids []age.Identity) ([]byte, error) {
	d, err := sops.Parse(cipher)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	if d.Size() > fleet.MaxSecretBytes {
		return nil, fmt.Errorf("%w: plaintext of %d bytes, at most %d", ErrTooLarge, d.Size(), fleet.MaxSecretBytes)
	}
	keys := make([]sops.Identity, len(ids))
	for i, id := range ids {
		keys[i] = sops.Identity{Identity: id}
	}
	plain, err := d.Decrypt(keys...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	return plain, nil
}

// whyNot says why age refused, without its words: they repeat bytes of the
// file, and a secret that was never encrypted would end in a log.
func whyNot(err error) string {
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return "it is for another key; encrypt it for this machine"
	}
	return "it is no age file; encrypt it again"
}

// Prune removes the secrets of all manifests but those in keep (as returned by
// Prepare) and the one that the link points at, and what a crash left behind.
// It MUST NOT run while Prepare does for the same root.
func Prune(root string, keep []string) error {
	current, err := Current(root)
	if err != nil {
		return fmt.Errorf("pruning secrets: %w", err)
	}
	dir := root + ".d"
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pruning secrets: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if path == current || slices.Contains(keep, path) {
			continue
		}
		crashpoint.Hit(crashpoint.SecretsRemove)
		// Half a removal must not pass for a whole preparation.
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			tmp := filepath.Join(dir, tempPrefix+e.Name())
			if err := errors.Join(os.RemoveAll(tmp), os.Rename(path, tmp)); err != nil {
				return fmt.Errorf("pruning secrets: %w", err)
			}
			path = tmp
			crashpoint.Hit(crashpoint.SecretsUnnamed)
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("pruning secrets: %w", err)
		}
		crashpoint.Hit(crashpoint.SecretsRemoved)
	}
	return atomicfile.SyncDir(dir)
}
