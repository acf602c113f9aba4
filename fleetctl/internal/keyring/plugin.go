package keyring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

const pluginIdentity = "AGE-PLUGIN-"

// parseIdentities reads an identity file; lines of age plugins, such as that
// of a YubiKey, may stand among the native ones.
func (k *Keyring) parseIdentities(r io.Reader) ([]age.Identity, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
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
