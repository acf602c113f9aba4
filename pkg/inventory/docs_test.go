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
}
