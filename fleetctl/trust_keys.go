package fleetctl

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// newKeyWord names a key that is yet to be made.
const newKeyWord = "new"

// keyArgHelp says what KEY may be.
const keyArgHelp = `KEY is one of:
  new                    makes a key in trust/keys, encrypted to the repository's
                         recipients
  ssh-agent:FINGERPRINT  an ed25519 key in your ssh-agent, plain or of a security
                         key, as ssh-add -l prints it
                         (which wants a touch for each document that it signs:
                         one for a trust root, one per machine for a release)
  FILE.pub               an OpenSSH public key of these types, or what "fleetctl
                         trust new-key" wrote: the key may be anybody's, anywhere
  the begin of a key id  a key that another role has already`

type newKeyOptions struct {
	Recipients []string
}

func newTrustKeyCommand(o *options) *cobra.Command {
	opts := &newKeyOptions{}
	cmd := &cobra.Command{
		Use:   "new-key NAME",
		Short: "Make a signing key that only you can use",
		Long: `Make a signing key: trust/keys/NAME.age, encrypted to your own age identity and
to every --recipient but to nobody else, and its public part, trust/keys/NAME.pub.
Commit both, or keep the first elsewhere. It counts for nothing until somebody
adds it to a role: fleetctl trust add-key ROLE trust/keys/NAME.pub.`,
		Example: "  fleetctl trust new-key root-dana",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runNewKey(o, opts, args[0]) },
	}
	cmd.Flags().StringArrayVar(&opts.Recipients, "recipient", nil, "further age `recipient` that can open the key; may be repeated")
	return cmd
}

// newKeyResult is the JSON form of trust new-key.
type newKeyResult struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Public string `json:"public"`
}

var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func runNewKey(o *options, opts *newKeyOptions, name string) error {
	if !keyName.MatchString(name) {
		return usageError{ui.WithHint(fmt.Errorf("%.80q cannot name a key", name), "use lower-case letters, digits, dashes and underscores, at most 64")}
	}
	if _, err := keyring.ParseRecipients(opts.Recipients); err != nil {
		return usageError{err}
	}
	w, err := o.open()
	if err != nil {
		return err
	}
	keys, err := o.keys()
	if err != nil {
		return err
	}
	recipients := unique(append(keys.Recipients(), opts.Recipients...))
	if len(recipients) == 0 {
		return ui.WithHint(errors.New("your age identity does not tell its recipient"), "name it with --recipient")
	}
	unlock, err := w.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	key, err := makeKey(w, name, recipients)
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(newKeyResult{ID: key.ID, Key: w.Path("trust", "keys", name+".age"), Public: w.Path("trust", "keys", name+".pub")})
	}
	p.Printf("Key %.12s is in trust/keys/%s.age. It counts once it has a role:\n  fleetctl trust add-key ROLE trust/keys/%s.pub\n", key.ID, name, name)
	return nil
}

// makeKey makes a key in trust/keys. The private part is written first: a
// public part alone would look like a key that is elsewhere.
func makeKey(w *workspace, name string, recipients []string) (*keyring.SSHKey, error) {
	parsed, err := keyring.ParseRecipients(recipients)
	if err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	pub, _ := key.Public().(ed25519.PublicKey)
	described, err := keyring.SSHKeyOf(pub, name)
	if err != nil {
		return nil, err
	}
	sealed, err := identity.SealKey(key, parsed...)
	if err != nil {
		return nil, err
	}
	if err := w.WriteKey(name, sealed); err != nil {
		return nil, err
	}
	if err := w.NotePublicKey(name, described.ID, described.Line()); err != nil {
		// Nobody knows it yet. One that was found is never taken for one's own: whoever
		// put it there has it too.
		return nil, errors.Join(err, w.DropKey(name))
	}
	return described, nil
}

// resolveKey finds or makes the key that an argument names. A key that is in no
// file here is noted as a public key of the role.
func resolveKey(w *workspace, keys *keyring.Keyring, r *release.Root, role release.RoleName, arg string) (string, release.Key, error) {
	key, err := findKey(w, keys, role, arg)
	if err != nil {
		return "", release.Key{}, err
	}
	if key != nil {
		notes, err := w.KeyNotes()
		if err != nil {
			return "", release.Key{}, err
		}
		if notes[key.ID] == "" {
			name, err := freeKeyName(w, role)
			if err != nil {
				return "", release.Key{}, err
			}
			if err := w.NotePublicKey(name, key.ID, key.Line()); err != nil {
				return "", release.Key{}, err
			}
		}
		return key.ID, key.Key, nil
	}
	var found []string
	for id := range r.Keys {
		if len(arg) >= 8 && strings.HasPrefix(id, strings.ToLower(arg)) {
			found = append(found, id)
		}
	}
	if len(found) != 1 {
		return "", release.Key{}, usageError{ui.WithHint(fmt.Errorf("%.80q names no key", arg), `"new", ssh-agent:FINGERPRINT, a file that ends with .pub, or 8 digits or more of the id of a key that another role has`)}
	}
	return found[0], r.Keys[found[0]], nil
}

// findKey returns nil where the argument names a key that is in the root.
func findKey(w *workspace, keys *keyring.Keyring, role release.RoleName, arg string) (*keyring.SSHKey, error) {
	switch {
	case arg == newKeyWord:
		recipients, err := w.Recipients()
		if err != nil {
			return nil, err
		}
		name, err := freeKeyName(w, role)
		if err != nil {
			return nil, err
		}
		return makeKey(w, name, recipients)
	case strings.HasPrefix(arg, keyring.AgentPrefix):
		return keys.AgentKey(arg)
	case strings.HasSuffix(arg, ".pub"):
		data, err := readSmall(arg)
		if err != nil {
			return nil, err
		}
		key, err := keyring.ParseSSHKey(data)
		if err != nil {
			return nil, ui.WithHint(fmt.Errorf("%s: %w", arg, err), ui.HintOf(err))
		}
		return key, nil
	}
	return nil, nil //nolint:nilnil // No such key is for the caller to look up.
}

// maxSmall bounds the files that people hand over on the command line.
const maxSmall = 1 << 20

// readSmall reads a file that a person named.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usageError{err}
	}
	if !info.Mode().IsRegular() || info.Size() > maxSmall {
		return nil, usageError{fmt.Errorf("%s is no regular file of at most %d bytes", path, maxSmall)}
	}
	return atomicfile.ReadAtMost(path, maxSmall)
}
