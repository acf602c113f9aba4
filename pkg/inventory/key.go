package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// ErrNoKey is what MachineKey returns for a machine without a key.json.
var ErrNoKey = errors.New("no machine key")

const maxKeyBytes = 64 << 10

// ParseRecipient reads the public key that secrets are encrypted to: an age
// recipient (age1…) or an ssh-ed25519 or ssh-rsa public key.
func ParseRecipient(s string) (age.Recipient, error) {
	if strings.ContainsAny(s, "\n\r\x00") {
		return nil, fmt.Errorf("%w: a recipient of several lines", ErrInvalid)
	}
	if strings.HasPrefix(s, "ssh-") {
		r, err := agessh.ParseRecipient(s)
		if err != nil {
			return nil, fmt.Errorf("parsing ssh recipient: %w", err)
		}
		return r, nil
	}
	list, err := age.ParseRecipients(strings.NewReader(s))
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("%w: %s is no age recipient", ErrInvalid, quote(s))
	}
	return list[0], nil
}

// MachineKey reads the age recipient of a machine from
// sops/machines/<machine>/key.json below dir, as clan writes it. A link that
// leads out of dir is refused. The error wraps [ErrNoKey] where there is no
// such file.
func MachineKey(dir string, machine fleet.MachineName) (string, error) {
	if _, err := fleet.ParseMachineName(string(machine)); err != nil {
		return "", err
	}
	name := filepath.Join("sops", "machines", string(machine), "key.json")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("reading the key of machine %s: %w", machine, err)
	}
	defer func() { _ = root.Close() }()
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w for %s: %s does not exist", ErrNoKey, machine, filepath.Join(dir, name))
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", filepath.Join(dir, name))
	}
	if err != nil {
		return "", fmt.Errorf("reading the key of machine %s: %w", machine, err)
	}
	f, err := root.Open(name)
	if err != nil {
		return "", fmt.Errorf("reading the key of machine %s: %w", machine, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading the key of machine %s: %w", machine, err)
	}
	key, err := ParseMachineKey(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return key, nil
}

// ParseMachineKey reads a machine's key.json: a list with exactly one key, or,
// in older files, the key alone.
func ParseMachineKey(data []byte) (string, error) {
	type publicKey struct {
		PublicKey string `json:"publickey"`
		Type      string `json:"type"`
	}
	var keys []publicKey
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		keys = make([]publicKey, 1)
		err = strictjson.Unmarshal(data, maxKeyBytes, &keys[0])
	} else {
		err = strictjson.Unmarshal(data, maxKeyBytes, &keys)
	}
	switch {
	case err != nil:
		return "", err
	case len(keys) != 1:
		return "", fmt.Errorf("%w: %d keys: a machine has exactly one", ErrInvalid, len(keys))
	case !strings.EqualFold(keys[0].Type, "age"):
		return "", fmt.Errorf("%w: type %s: only age keys are supported", ErrInvalid, quote(keys[0].Type))
	}
	if _, err := ParseRecipient(keys[0].PublicKey); err != nil {
		return "", err
	}
	return keys[0].PublicKey, nil
}
