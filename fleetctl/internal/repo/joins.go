package repo

import (
	"encoding/hex"
	"fmt"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// WriteJoin keeps a join string, encrypted: its secret checks the host's keys
// later.
func (r *Repository) WriteJoin(j pki.Join, recipients ...age.Recipient) error {
	sealed, err := pki.SealKey([]byte(j.String()+"\n"), recipients...)
	if err != nil {
		return fmt.Errorf("keeping the join string: %w", err)
	}
	return r.Write(sealed, "joins", hex.EncodeToString(j.TokenHash())+".age")
}

// Join reads the join string whose token has the given hash; os.ErrNotExist
// where there is none.
func (r *Repository) Join(tokenHash []byte, o Opener) (pki.Join, error) {
	name := hex.EncodeToString(tokenHash) + ".age"
	sealed, err := r.Read(1<<20, "joins", name)
	if err != nil {
		return pki.Join{}, err
	}
	text, err := o.Open(sealed)
	if err != nil {
		return pki.Join{}, ui.WithHint(fmt.Errorf("opening joins/%s: %w", name, err), ui.HintOf(err))
	}
	j, err := pki.ParseJoin(string(text))
	if err != nil {
		return pki.Join{}, fmt.Errorf("reading joins/%s: %w: %w", name, ErrCorrupt, err)
	}
	return j, nil
}
