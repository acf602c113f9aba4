package inventory_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// largeInventory has n machines, all members of one role by tag and by name.
func largeInventory(n int) []byte {
	machines, listed := make([]string, n), make([]string, n)
	for i := range n {
		machines[i] = fmt.Sprintf(`"m%d": {"machineClass": "nixos", "tags": ["all"]}`, i)
		listed[i] = fmt.Sprintf(`"m%d": {}`, i)
	}
	return fmt.Appendf(nil, `{"machines": {%s}, "instances": {"a": {"roles": {"r": {"tags": {"all": {}}, "settings": {"x": 1}, "machines": {%s}}}}}}`,
		strings.Join(machines, ","), strings.Join(listed, ","))
}

// TestLargeFleet reads a fleet of 5,000 machines from many goroutines.
func TestLargeFleet(t *testing.T) {
	const n = 5_000
	f, err := inventory.Parse("fleet.yaml", []byte("fleet: large\ninventory: {file: i.json}\nsettings: {all: {policy: {verifyDeadline: 3m}}}\n"), "/",
		func(string) ([]byte, error) { return largeInventory(n), nil })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				m := fleet.MachineName(fmt.Sprintf("m%d", i))
				if _, err := f.Settings(m); err != nil {
					t.Error(err)
				}
				if s, err := f.EffectiveSettings("a", "r", m); err != nil || s["x"] != int64(1) {
					t.Errorf("%v, %v", s, err)
				}
			}
		})
	}
	wg.Wait()
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	if got := len(f.Machines()); got != n {
		t.Errorf("%d machines", got)
	}
}

func BenchmarkParseInventory(b *testing.B) {
	data := largeInventory(10_000)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := inventory.ParseInventory("i.json", data); err != nil {
			b.Fatal(err)
		}
	}
}
