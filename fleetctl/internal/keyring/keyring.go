// Package keyring finds the operator's age identities and opens and seals what
// is encrypted at rest with them.
package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrNoIdentity is wrapped when no age identity is to be found.
var ErrNoIdentity = errors.New("no age identity found")

// ErrCannotOpen is wrapped when none of the identities opens a file.
var ErrCannotOpen = errors.New("none of your age identities opens it")

// maxFile bounds an identity file and an encrypted file, in bytes.
const maxFile = 32 << 20

// Keyring holds age identities, and knows the operator's ssh-agent.
type Keyring struct {
	// Notify tells people that something waits for them, as for a touch; it may
	// be nil.
	Notify func(text string)

	ids    []age.Identity
	source []string
	// texts are what the identities were read from.
	texts [][]byte
	// agentSocket is that of the ssh-agent; empty for none.
	agentSocket string
	// only is the one key that may sign; empty for any.
	only string
}

// Places says where identities are looked for.
type Places struct {
	// Explicit is the file named on the command line; it excludes all others.
	Explicit string
	Getenv   func(string) string
	// Notify becomes that of the keyring.
	Notify func(text string)
}

// Load reads the identities: the explicit file, else that of
// FLEET_AGE_KEY_FILE, else all of SOPS_AGE_KEY, SOPS_AGE_KEY_FILE,
// sops/age/keys.txt and fleet/keys.txt below the configuration directory. The
// ssh-agent is that of SSH_AUTH_SOCK.
func Load(p Places) (*Keyring, error) {
	k := &Keyring{Notify: p.Notify, agentSocket: p.Getenv("SSH_AUTH_SOCK")}
	for _, file := range []string{p.Explicit, p.Getenv("FLEET_AGE_KEY_FILE")} {
		if file != "" {
			return k, k.add(file)
		}
	}
	if text := p.Getenv("SOPS_AGE_KEY"); text != "" {
		if err := k.parse("SOPS_AGE_KEY", strings.NewReader(text)); err != nil {
			return nil, err
		}
	}
	if file := p.Getenv("SOPS_AGE_KEY_FILE"); file != "" {
		if err := k.add(file); err != nil {
			return nil, err
		}
	}
	for _, file := range []string{SopsFile(p.Getenv), DefaultFile(p.Getenv)} {
		err := k.add(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if len(k.ids) == 0 {
		return nil, ui.WithHint(fmt.Errorf("%w: looked in SOPS_AGE_KEY, SOPS_AGE_KEY_FILE, %s and %s",
			ErrNoIdentity, SopsFile(p.Getenv), DefaultFile(p.Getenv)),
			"name the file with --identity or FLEET_AGE_KEY_FILE")
	}
	return k, nil
}

func (k *Keyring) add(file string) error {
	f, err := os.Open(file) //nolint:gosec // The operator names the file.
	if err != nil {
		return fmt.Errorf("reading age identities: %w", err)
	}
	defer f.Close() //nolint:errcheck // Only read.
	return k.parse(file, io.LimitReader(f, maxFile))
}

func (k *Keyring) parse(name string, r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("reading age identities of %s: %w", name, err)
	}
	ids, err := k.parseIdentities(text)
	if err != nil {
		return ui.WithHint(fmt.Errorf("reading age identities of %s: %w", name, err),
			"an identity file has lines that begin with AGE-SECRET-KEY-1, as age-keygen makes them, or with AGE-PLUGIN-")
	}
	k.ids = append(k.ids, ids...)
	k.source = append(k.source, name)
	k.texts = append(k.texts, text)
	return nil
}

// Sources names where the identities came from.
func (k *Keyring) Sources() []string { return k.source }

// Identities returns the identities.
func (k *Keyring) Identities() []age.Identity { return k.ids }

// Recipients returns the public sides of the identities. Those of plugins don't
// tell theirs.
func (k *Keyring) Recipients() []string {
	var out []string
	for _, id := range k.ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			out = append(out, id.Recipient().String())
		case *age.HybridIdentity:
			out = append(out, id.Recipient().String())
		}
	}
	return out
}

// Open decrypts data, armored or not.
func (k *Keyring) Open(data []byte) ([]byte, error) {
	plain, err := pki.OpenKey(data, k.ids...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return nil, ui.WithHint(ErrCannotOpen, "use the age identity that it was encrypted to: --identity FILE (tried "+strings.Join(k.source, ", ")+")")
	}
	return plain, err
}

// OpenFile decrypts a file.
func (k *Keyring) OpenFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // The operator's repository names it.
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // Only read.
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("opening %s: more than %d bytes", path, maxFile)
	}
	plain, err := k.Open(data)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("opening %s: %w", path, err), ui.HintOf(err))
	}
	return plain, nil
}

// ParseRecipient reads one age recipient: X25519, hybrid or a plugin's.
func ParseRecipient(s string) (age.Recipient, error) {
	if r, err := pluginRecipient(s); err == nil {
		return r, nil
	}
	rs, err := age.ParseRecipients(strings.NewReader(s))
	if err != nil || len(rs) != 1 || strings.ContainsAny(s, "\n#") {
		return nil, ui.WithHint(fmt.Errorf("%.80q is no age recipient", s), "a recipient is the public key that age-keygen prints: age1…")
	}
	return rs[0], nil
}

// ParseRecipients reads several.
func ParseRecipients(list []string) ([]age.Recipient, error) {
	out := make([]age.Recipient, 0, len(list))
	for _, s := range list {
		r, err := ParseRecipient(s)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// SealBinary encrypts data to recipients, not armored: what travels to hosts.
func SealBinary(data []byte, recipients ...age.Recipient) ([]byte, error) {
	var buf bytes.Buffer
	w, err := age.Encrypt(&buf, recipients...)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return buf.Bytes(), nil
}

// Create makes a new identity file, readable by its owner only. It replaces
// nothing.
func Create(path string) error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("making an age identity: %w", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("making an age identity: %s is there already", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making an age identity: %w", err)
	}
	text := fmt.Sprintf("# public key: %s\n%s\n", id.Recipient(), id)
	return atomicfile.WriteFile(path, []byte(text), 0o600)
}

// ConfigDir is the user's configuration directory: XDG_CONFIG_HOME, else
// ~/.config.
func ConfigDir(getenv func(string) string) string {
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(getenv("HOME"), ".config")
}

// DefaultFile is where init puts a new identity.
func DefaultFile(getenv func(string) string) string {
	return filepath.Join(ConfigDir(getenv), "fleet", "keys.txt")
}

// SopsFile is where sops keeps identities; on macOS it knows another default.
func SopsFile(getenv func(string) string) string {
	dir := ConfigDir(getenv)
	if runtime.GOOS == "darwin" && getenv("XDG_CONFIG_HOME") == "" {
		dir = filepath.Join(getenv("HOME"), "Library", "Application Support")
	}
	return filepath.Join(dir, "sops", "age", "keys.txt")
}
