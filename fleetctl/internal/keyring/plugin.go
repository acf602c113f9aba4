package keyring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/ageplugin"
)

const pluginIdentity = "AGE-PLUGIN-"

// parseIdentities reads an identity file; lines of age plugins, such as that
// of a YubiKey, may stand among the native ones.
func (k *Keyring) parseIdentities(data []byte) ([]age.Identity, error) {
	var ids []age.Identity
	var native strings.Builder
	for line := range strings.Lines(string(data)) {
		if s := strings.TrimSpace(line); strings.HasPrefix(s, pluginIdentity) {
			id, err := plugin.NewIdentity(s, k.pluginUI())
			if err != nil {
				return nil, fmt.Errorf("an identity of a plugin: %w", err)
			}
			ids = append(ids, id)
			line = "\n" // So that line numbers stay.
		}
		native.WriteString(line)
	}
	if len(ids) > 0 && !strings.Contains(native.String(), "AGE-SECRET-KEY-") {
		return ids, nil
	}
	more, err := age.ParseIdentities(strings.NewReader(native.String()))
	return append(ids, more...), err
}

// Sops returns the identities, with the public keys that are known of them, for documents
// of sops, and what makes keys of plugins there.
func (k *Keyring) Sops() ([]sops.Identity, sops.Plugins, error) {
	plugins := ageplugin.New(k.pluginUI())
	var all []sops.Identity
	for i, text := range k.texts {
		ids, err := sops.ParseIdentities(text, plugins)
		if err != nil {
			return nil, nil, fmt.Errorf("reading age identities of %s: %w", k.source[i], err)
		}
		all = append(all, ids...)
	}
	return all, plugins, nil
}

// pluginUI lets plugins talk to whoever sits here.
func (k *Keyring) pluginUI() *plugin.ClientUI {
	say := func(format string, v ...any) {
		if k.Notify != nil {
			k.Notify(fmt.Sprintf(format, v...))
		}
	}
	return plugin.NewTerminalUI(say, say)
}

// pluginRecipient reads the recipient of a plugin: age1NAME1….
func pluginRecipient(s string) (age.Recipient, error) {
	r, err := plugin.NewRecipient(s, (&Keyring{}).pluginUI())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// sameFile says whether two paths name one file.
func sameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errors.Join(errA, errB) == nil && os.SameFile(x, y)
}
