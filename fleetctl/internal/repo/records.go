package repo

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// HostRecord is what the repository knows of a host: the keys that it sent at
// enrolment, after their proof was checked.
type HostRecord struct {
	Machine fleet.MachineName `json:"machine"`
	// Keys is the canonical JSON that the host sent (package pki, HostKeys).
	Keys string `json:"keys"`
	// Age is the recipient in it.
	Age string `json:"age"`
	// Report is the public report key in it, base64.
	Report string `json:"report"`
	// TokenHash names the join string that proved the keys, hex.
	TokenHash string `json:"token_hash"`
	// Joined is when that join string was made: newer ones replace older ones,
	// never the other way round.
	Joined time.Time `json:"joined"`
}

// Host reads the record of a machine; nil where there is none.
func (r *Repository) Host(m fleet.MachineName) (*HostRecord, error) {
	h := &HostRecord{}
	err := r.readJSON(1<<20, h, "hosts", string(m)+".json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // No record is a normal answer.
	}
	if err != nil {
		return nil, err
	}
	if h.Machine != m {
		return nil, fmt.Errorf("reading hosts/%s.json: %w: it is of machine %q", m, ErrCorrupt, h.Machine)
	}
	return h, nil
}

// WriteHost records a machine.
func (r *Repository) WriteHost(h *HostRecord) error {
	return r.writeJSON(h, "hosts", string(h.Machine)+".json")
}

// Ban is a machine whose identity counts no longer.
type Ban struct {
	Machine  fleet.MachineName `json:"machine"`
	Reason   string            `json:"reason"`
	Operator string            `json:"operator"`
	Time     time.Time         `json:"time"`
}

type banFile struct {
	Bans []Ban `json:"bans"`
}

// Bans reads the bans.
func (r *Repository) Bans() ([]Ban, error) {
	var f banFile
	err := r.readJSON(64<<20, &f, "trust", "bans.json")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, b := range f.Bans {
		if _, err := fleet.ParseMachineName(string(b.Machine)); err != nil {
			return nil, ui.WithHint(fmt.Errorf("reading trust/bans.json: %w: %w", ErrCorrupt, err), "restore it from version control")
		}
	}
	return f.Bans, nil
}

// SetBan records a ban in place of an older one, or, with lift, removes it.
func (r *Repository) SetBan(b Ban, lift bool) error {
	bans, err := r.Bans()
	if err != nil {
		return err
	}
	bans = slices.DeleteFunc(bans, func(o Ban) bool { return o.Machine == b.Machine })
	if !lift {
		bans = append(bans, b)
	}
	slices.SortFunc(bans, func(a, b Ban) int { return strings.Compare(string(a.Machine), string(b.Machine)) })
	return r.SetBans(bans)
}

// SetBans records these bans and no others.
func (r *Repository) SetBans(bans []Ban) error {
	return r.writeJSON(banFile{Bans: bans}, "trust", "bans.json")
}

// Recipients reads who can open what is encrypted at rest: age recipients, one
// a line, # for comments.
func (r *Repository) Recipients() ([]string, error) {
	data, err := r.Read(1<<20, "trust", "recipients.txt")
	if err != nil {
		return nil, fmt.Errorf("reading recipients: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("reading %s: %w: no recipient in it", r.Path("trust", "recipients.txt"), ErrCorrupt)
	}
	return out, nil
}

// WriteRecipients records them.
func (r *Repository) WriteRecipients(list []string) error {
	text := "# Age recipients that can open what this repository encrypts at rest, one a line.\n" + strings.Join(list, "\n") + "\n"
	return r.Write([]byte(text), "trust", "recipients.txt")
}
