package repo

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrOperatorRole is an operator with two roles.
var ErrOperatorRole = errors.New("the operator has two roles")

// OperatorRecord is what the repository knows of an operator, in
// trust/operators/<name>.json. Who was removed keeps the record, so that no
// coordinator takes them back.
type OperatorRecord struct {
	Name fleet.OperatorName `json:"name"`
	Role fleet.Role         `json:"role"`
	// Key is the fingerprint of the only key whose certificates count
	// (pki.KeyFingerprint); empty for one who was removed and had none.
	Key string `json:"key,omitempty"`
	// Certificate is the newest one that an admin had issued, PEM. It is public.
	Certificate string `json:"certificate,omitempty"`
	// Changed is when this was recorded, by the coordinator's clock where it was
	// asked. Of two records the younger counts.
	Changed time.Time `json:"changed"`
	By      string    `json:"by,omitempty"`
	Removed bool      `json:"removed,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// Leaf reads the certificate; nil where there is none.
func (o *OperatorRecord) Leaf() *x509.Certificate {
	block, _ := pem.Decode([]byte(o.Certificate))
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
}

func (o *OperatorRecord) check(name string) error {
	if string(o.Name) != name {
		return fmt.Errorf("it is of operator %q", o.Name)
	}
	if _, err := fleet.ParseOperatorName(name); err != nil {
		return err
	}
	if _, err := fleet.ParseRole(string(o.Role)); err != nil {
		return err
	}
	if _, err := fleet.ParseDigest("sha256:" + o.Key); err != nil && (o.Key != "" || !o.Removed) {
		return errors.New("its key is no fingerprint")
	}
	if o.Changed.IsZero() {
		return errors.New("it does not say when it was made")
	}
	return nil
}

// maxOperatorFile bounds a record's file, in bytes.
const maxOperatorFile = 64 << 10

// Operator reads a record; nil where there is none.
func (r *Repository) Operator(name fleet.OperatorName) (*OperatorRecord, error) {
	o := &OperatorRecord{}
	file := string(name) + ".json"
	err := r.readJSON(maxOperatorFile, o, "trust", "operators", file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // No record is a normal answer.
	}
	if err == nil {
		err = o.check(string(name))
	}
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("reading trust/operators/%s: %w: %w", file, ErrCorrupt, err), "restore it from version control")
	}
	return o, nil
}

// Operators reads all records, by name.
func (r *Repository) Operators() ([]OperatorRecord, error) {
	entries, err := os.ReadDir(r.Path("trust", "operators"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading operators: %w", err)
	}
	var out []OperatorRecord
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		o, err := r.Operator(fleet.OperatorName(name))
		if err != nil {
			return nil, err
		}
		if o != nil {
			out = append(out, *o)
		}
	}
	return out, nil
}

// WriteOperator records an operator.
func (r *Repository) WriteOperator(o *OperatorRecord) error {
	if err := o.check(string(o.Name)); err != nil {
		return fmt.Errorf("recording operator %s: %w", o.Name, err)
	}
	return r.writeJSON(o, "trust", "operators", string(o.Name)+".json")
}

// ForgetOperator undoes the first WriteOperator.
func (r *Repository) ForgetOperator(name fleet.OperatorName) error {
	if err := os.Remove(r.Path("trust", "operators", string(name)+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting operator %s: %w", name, err)
	}
	return nil
}

// AllOperators joins the records with those whom the fleet file lists, by name;
// who is only listed has no key and no time. An operator whose record and line
// name different roles is an error that wraps ErrOperatorRole.
func (r *Repository) AllOperators(listed []inventory.Operator) ([]OperatorRecord, error) {
	all, err := r.Operators()
	if err != nil {
		return nil, err
	}
	for _, l := range listed {
		i := slices.IndexFunc(all, func(o OperatorRecord) bool { return o.Name == l.Name })
		switch {
		case i < 0:
			all = append(all, OperatorRecord{Name: l.Name, Role: l.Role})
		case !all[i].Removed && all[i].Role != l.Role:
			return nil, ui.WithHint(fmt.Errorf("operator %s: %w: %s in %s, %s in trust/operators", l.Name, ErrOperatorRole, l.Role, FleetFile, all[i].Role),
				fmt.Sprintf("take the line out of %s; \"fleetctl operator add %s --role ROLE\" changes the role", FleetFile, l.Name))
		}
	}
	slices.SortFunc(all, func(a, b OperatorRecord) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return all, nil
}
