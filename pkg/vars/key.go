package vars

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// KeyType is the type of a public key.
type KeyType string

// The types.
const (
	AgeKey KeyType = "age" // X25519, SSH and plugins alike
	PGPKey KeyType = "pgp"
)

// Key is a public key of a user or a machine.
type Key struct {
	// PublicKey is age1…, ssh-ed25519 …, ssh-rsa …; of PGP a fingerprint.
	PublicKey string  `json:"publickey"`
	Type      KeyType `json:"type"`
}

const (
	maxKeyFile = 256 << 10
	maxKeys    = 64
)

// ParseKeys reads a key.json: an array of keys, or, as it was once, one of them. Types are
// matched without regard to case.
func ParseKeys(data []byte) ([]Key, error) {
	var keys []Key
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		var one Key
		if err := strictjson.Unmarshal(data, maxKeyFile, &one); err != nil {
			return nil, err //nolint:wrapcheck // It names the line; the caller names the file.
		}
		keys = []Key{one}
	} else if err := strictjson.Unmarshal(data, maxKeyFile, &keys); err != nil {
		return nil, err //nolint:wrapcheck // As above.
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys: want 1 to %d", len(keys), maxKeys)
	}
	for i := range keys {
		keys[i].Type = KeyType(strings.ToLower(string(keys[i].Type)))
		if err := keys[i].check(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (k Key) check() error {
	if k.PublicKey == "" || strings.ContainsAny(k.PublicKey, "\r\n,") {
		return errors.New("a public key is empty, or has a comma or a newline")
	}
	switch k.Type {
	case AgeKey:
		_, err := sops.ParseRecipient(k.PublicKey, anyPlugin{})
		return err //nolint:wrapcheck // It names the key.
	case PGPKey:
		return nil
	}
	return fmt.Errorf("type %.40q of a key: want age or pgp", k.Type)
}

// FormatKeys writes a key.json as clan does, sorted and without a final newline.
func FormatKeys(keys []Key) ([]byte, error) {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(strings.Compare(a.PublicKey, b.PublicKey), strings.Compare(string(a.Type), string(b.Type)))
	})
	keys = slices.Compact(keys)
	for _, k := range keys {
		if err := k.check(); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys: want 1 to %d", len(keys), maxKeys)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(keys); err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
