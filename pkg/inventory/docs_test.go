package inventory_test

import (
	"os"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// TestDocumentedExamples reads the examples of the reference as one file, as it
// says that they are.
func TestDocumentedExamples(t *testing.T) {
	f, err := inventory.Parse("fleet.yaml", []byte(documentedExample(t)), "/fleet", func(path string) ([]byte, error) {
		if path != "/fleet/inventory.json" {
			t.Errorf("read %s", path)
		}
		return os.ReadFile("testdata/real-inventory.raw.json")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	dep, err := f.Settings("box1")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Machines()) != 13 || len(dep.Probes) != 4 || len(dep.Secrets) != 2 || dep.Source.Bundle != "/fleet/bundles/web" {
		t.Errorf("%d machines, box1: %+v", len(f.Machines()), dep)
	}
	v := f.Vars()
	if len(v.Groups) != 1 || len(v.Generators) != 6 {
		t.Fatalf("vars: %+v", v)
	}
	web := v.Generators[3]
	if web.Name != "web-password" || !web.Share || len(web.Machines) != 2 || string(web.Settings) != `{"hash":"yescrypt"}` ||
		*web.Files["password"].Deploy || *web.Files["password-hash"].Mode != 0o440 || web.Files["password-hash"].Owner != "nginx" {
		t.Errorf("web-password: %+v", web)
	}
	if all := v.Generators[0]; len(all.Machines) != 13 || all.Share {
		t.Errorf("openssh: %+v", all)
	}
	if own := v.Generators[5]; own.Name != "zerotier-identity-"+inventory.MachineWord || len(own.Machines) >= 13 || len(own.Machines) == 0 {
		t.Errorf("of the tag nixos: %+v", own)
	}
}
