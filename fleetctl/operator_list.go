package fleetctl

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newOperatorListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List operators with role, key and last call",
		Long: `List operators: those whom the coordinator takes calls from, and those whom the
repository has recorded and the coordinator does not know yet. KEY is the
fingerprint of the only key that counts; "any" is one who is only listed in
fleet.yaml.

JSON: {"operators": [{name, role, key, last_seen, expires, removed, reason,
in_force, recorded}]}`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runOperatorList(cmd.Context(), o) },
	}
}

// operatorResult is one element of the JSON form of operator list.
type operatorResult struct {
	Name     fleet.OperatorName `json:"name"`
	Role     fleet.Role         `json:"role"`
	Key      string             `json:"key"`
	LastSeen *time.Time         `json:"last_seen"`
	Expires  *time.Time         `json:"expires"`
	Removed  bool               `json:"removed"`
	Reason   string             `json:"reason"`
	// InForce says that the coordinator knows the same.
	InForce bool `json:"in_force"`
	// Recorded says that the repository has a record, not only a line.
	Recorded bool `json:"recorded"`
}

func runOperatorList(ctx context.Context, o *options) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	there, err := s.Operators(ctx)
	if err != nil {
		return err
	}
	list := joinOperators(s.operators, there)
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Operators []operatorResult `json:"operators"`
		}{list})
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, r.row(p, o.Now()))
	}
	p.Table([]string{"NAME", "ROLE", "KEY", "LAST SEEN", "CERTIFICATE", "NOTE"}, rows)
	return nil
}

// joinOperators joins what the repository has with what the coordinator says.
func joinOperators(recorded []repo.OperatorRecord, there []client.OperatorStatus) []operatorResult {
	out := []operatorResult{}
	for _, r := range recorded {
		e := operatorResult{Name: r.Name, Role: r.Role, Key: r.Key, Removed: r.Removed, Reason: r.Reason, Recorded: !r.Changed.IsZero()}
		if leaf := r.Leaf(); leaf != nil {
			e.Expires = timeOrNil(leaf.NotAfter)
		}
		out = append(out, e)
	}
	for _, t := range there {
		i := slices.IndexFunc(out, func(e operatorResult) bool { return e.Name == t.Name })
		if i < 0 {
			out = append(out, operatorResult{Name: t.Name, Role: t.Role, Key: t.Key, Removed: t.Removed, Reason: t.Reason})
			i = len(out) - 1
		}
		e := &out[i]
		e.InForce = e.Role == t.Role && e.Removed == t.Removed && (e.Key == t.Key || !e.Recorded)
		e.LastSeen = timeOrNil(t.LastSeen)
		if e.Expires == nil || t.Expires.After(*e.Expires) {
			e.Expires = timeOrNil(t.Expires)
		}
	}
	slices.SortFunc(out, func(a, b operatorResult) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

func (r *operatorResult) row(p *ui.Printer, now time.Time) []string {
	seen, until, note := "never", "-", ""
	if r.LastSeen != nil {
		seen = ui.Ago(now, *r.LastSeen)
	}
	if r.Expires != nil {
		until = r.Expires.Format(time.DateOnly)
		switch left := r.Expires.Sub(now); {
		case r.Removed:
		case left <= 0:
			note = p.Paint(ui.ToneBad, "the certificate has ended")
		case left < 30*24*time.Hour:
			note = p.Paint(ui.ToneWarn, "the certificate ends soon")
		}
	}
	key := "any"
	if r.Key != "" {
		key = r.Key[:min(12, len(r.Key))]
	}
	switch {
	case r.Removed:
		note = "removed: " + clipText(r.Reason)
		if !r.InForce {
			note = p.Paint(ui.ToneBad, "removed here, in force there: publish")
		}
	case !r.InForce:
		note = p.Paint(ui.ToneWarn, "the coordinator knows another state: publish as an admin")
	case !r.Recorded && r.Key != "":
		note = "not in this checkout: get its newest commits"
	}
	return []string{string(r.Name), string(r.Role), key, seen, until, dash(note)}
}
