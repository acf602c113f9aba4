package repo

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/fleet"
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

// JoinsOf reads all join strings of a machine that can be opened here.
// os.ErrNotExist where there is none.
func (r *Repository) JoinsOf(m fleet.MachineName, o Opener) ([]pki.Join, error) {
	entries, err := os.ReadDir(r.Path("joins"))
	if err != nil {
		return nil, fmt.Errorf("reading join strings: %w", err)
	}
	var joins []pki.Join
	var errs []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".age")
		hash, err := hex.DecodeString(name)
		if !ok || err != nil {
			continue
		}
		j, err := r.Join(hash, o)
		switch {
		case err != nil:
			errs = append(errs, err)
		case j.Machine == m:
			joins = append(joins, j)
		}
	}
	if len(joins) == 0 {
		return nil, fmt.Errorf("reading join strings of %s: %w", m, errors.Join(append(errs, os.ErrNotExist)...))
	}
	return joins, nil
}
