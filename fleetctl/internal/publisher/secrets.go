package publisher

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// freshSecret is a ciphertext with a new version.
type freshSecret struct {
	name fleet.SecretName
	data []byte
	meta repo.SecretMeta
}

// secrets decides which ciphertexts a target gets: the published one where
// plaintext and readers are the same, else a new one with the next version.
func (b *builder) secrets(target Target, it *item) ([]fleet.SecretEntry, error) {
	if len(target.Secrets) == 0 {
		return nil, nil
	}
	own, err := b.machineKey(target)
	if err != nil {
		return nil, err
	}
	recipients := append([]string{own}, b.recipients...)
	slices.Sort(recipients)
	recipients = slices.Compact(recipients)
	index, err := b.p.Repo.Secrets(target.Machine)
	if err != nil {
		return nil, err
	}
	var entries []fleet.SecretEntry
	for _, s := range target.Secrets {
		var meta repo.SecretMeta
		var data []byte
		var format fleet.SecretFormat
		if s.Document != nil {
			format = fleet.FormatSops
			meta, data, err = b.document(target.Machine, s, index[s.Name], own)
		} else {
			meta, data, err = b.secret(target.Machine, s, index[s.Name], recipients)
		}
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.Name, err)
		}
		if meta.Version != index[s.Name].Version || meta.Digest != index[s.Name].Digest {
			it.fresh = append(it.fresh, freshSecret{s.Name, data, meta})
		}
		b.pl.blobs[meta.Digest] = secretBlob(fmt.Sprintf("secret %s of %s", s.Name, target.Machine), meta.Digest, data)
		entries = append(entries, fleet.SecretEntry{
			Name: s.Name, Version: meta.Version, Format: format, Digest: meta.Digest, Size: meta.Size,
			Path: s.Path, Also: s.Also, Owner: s.Owner, Group: s.Group, Mode: s.Mode,
			NeededFor: s.NeededFor, RestartUnits: s.RestartUnits,
		})
	}
	slices.SortFunc(entries, func(a, b fleet.SecretEntry) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return entries, nil
}

// machineKey is the public key that the machine's secrets have to be for.
func (b *builder) machineKey(target Target) (string, error) {
	own := target.Age
	host, err := b.p.Repo.Host(target.Machine)
	if err != nil {
		return "", err
	}
	if own != "" && host != nil && host.Age != "" && host.Age != own {
		b.p.Reporter.Warn(fmt.Sprintf("the age key of %s in the inventory is not the one that it showed at enrolment (%s): "+
			"it can open its secrets only with --age-identity, or when enrolled anew, or once fleetctl vars fix --host-keys has its values encrypted to that", target.Machine, host.Age))
	}
	if own == "" {
		if host == nil || host.Age == "" {
			return "", ui.WithHint(fmt.Errorf("it has secrets, but %w", ErrNoHostKey),
				fmt.Sprintf("enrol it first (fleetctl token %s), or set settings.machine.%s.age in fleet.yaml", target.Machine, target.Machine))
		}
		own = host.Age
	}
	return own, nil
}

// document is a secret that is encrypted already, and stays what it is: a new version
// where the tree has another one.
func (b *builder) document(m fleet.MachineName, s Secret, old repo.SecretMeta, own string) (repo.SecretMeta, []byte, error) {
	readers := s.Document.Recipients()
	if !slices.ContainsFunc(readers, func(r string) bool { return sops.Canonical(r) == sops.Canonical(own) }) {
		return repo.SecretMeta{}, nil, ui.WithHint(fmt.Errorf("%s is not encrypted to %s, the key of %s", s.Path, own, m),
			"sops/machines/"+string(m)+"/key.json names the key that it is encrypted to; make both one: give the host that one "+
				"(fleet-agent install --age-identity), or run fleetctl vars fix --host-keys")
	}
	data := s.Document.Bytes()
	meta := repo.SecretMeta{Version: old.Version, Digest: fleet.DigestOf(data), Size: uint64(len(data)), Recipients: readers}
	if old.Version == 0 || old.Digest != meta.Digest {
		meta.Version = max(old.Version, b.h.versions[m][s.Name]) + 1
	}
	return meta, data, nil
}

func (b *builder) secret(m fleet.MachineName, s Secret, old repo.SecretMeta, readers []string) (repo.SecretMeta, []byte, error) {
	plain, err := b.plaintext(s.File)
	if err != nil {
		return repo.SecretMeta{}, nil, err
	}
	if old.Version != 0 && slices.Equal(old.Recipients, readers) {
		data, err := b.p.Repo.ReadSecret(m, s.Name, old)
		if err != nil {
			return repo.SecretMeta{}, nil, err
		}
		if before, err := b.p.Keys.Open(data); data != nil && err == nil && subtle.ConstantTimeCompare(before, plain) == 1 {
			return old, data, nil
		}
	}
	recipients := make([]age.Recipient, 0, len(readers))
	for _, r := range readers {
		parsed, err := inventory.ParseRecipient(r)
		if err != nil {
			return repo.SecretMeta{}, nil, err
		}
		recipients = append(recipients, parsed)
	}
	data, err := keyring.SealBinary(plain, recipients...)
	if err != nil {
		return repo.SecretMeta{}, nil, err
	}
	return repo.SecretMeta{
		// Above everything that was ever signed, wherever that is known from.
		Version: max(old.Version, b.h.versions[m][s.Name]) + 1,
		Digest:  fleet.DigestOf(data), Size: uint64(len(data)), Recipients: readers,
	}, data, nil
}

// plaintext opens a secret's file, once for all machines that share it.
func (b *builder) plaintext(file string) ([]byte, error) {
	if plain, ok := b.plain[file]; ok {
		return plain, nil
	}
	plain, err := b.p.Keys.OpenFile(file)
	if err != nil {
		return nil, err
	}
	if len(plain) > fleet.MaxSecretBytes {
		return nil, fmt.Errorf("%s is of %d bytes, at most %d", file, len(plain), fleet.MaxSecretBytes)
	}
	b.plain[file] = plain
	return plain, nil
}

func secretBlob(name string, digest fleet.Digest, data []byte) blob {
	return blob{
		ref: fleet.BlobRef{Digest: digest, Size: uint64(len(data))}, name: name,
		open: func() (source, error) { return memory{bytes.NewReader(data)}, nil },
	}
}

// oldSecret is a ciphertext published before.
func (b *builder) oldSecret(m fleet.MachineName, e fleet.SecretEntry) blob {
	return blob{
		ref: fleet.BlobRef{Digest: e.Digest, Size: e.Size}, name: fmt.Sprintf("secret %s of %s", e.Name, m),
		open: func() (source, error) {
			data, err := b.p.Repo.ReadSecret(m, e.Name, repo.SecretMeta{Digest: e.Digest})
			if data == nil {
				return nil, errors.Join(ui.WithHint(fmt.Errorf("secret %s: %w", e.Name, ErrSourceGone), "publish without --refresh"), err)
			}
			return memory{bytes.NewReader(data)}, nil
		},
	}
}

// memory is a source that needs no closing.
type memory struct{ *bytes.Reader }

// Close does nothing.
func (memory) Close() error { return nil }
