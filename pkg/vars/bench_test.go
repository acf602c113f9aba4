package vars_test

import (
	"fmt"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// BenchmarkTenMachines writes 120 secrets and 60 public values of ten machines in one change,
// keys of the machines included, and reads the secrets.
func BenchmarkTenMachines(b *testing.B) {
	for b.Loop() {
		dir := clanTree(b)
		change(b, dir, "alice", func(c *vars.Change) error {
			for i := range 60 {
				m := fmt.Sprintf("host%d", i%10)
				id := vars.ID{Placement: vars.PerMachine(m), Generator: fmt.Sprintf("gen%d", i), File: "a"}
				for _, f := range []string{"a", "b"} {
					id.File = f
					if err := c.PutSecret(id.Path(), []byte(m), vars.Access{Machines: []string{m}, Groups: []string{"admins"}}); err != nil {
						return err
					}
				}
				id.File = "pub"
				if err := c.PutPublic(id, []byte(m)); err != nil {
					return err
				}
			}
			return nil
		})
		tree, ids := open(b, dir), []sops.Identity{key(b, "alice").Identity}
		for _, e := range tree.Entries() {
			if e.Secret {
				if _, err := tree.Read(e.Path, ids); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
