package transport

import (
	"testing"

	"google.golang.org/grpc"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEveryMethodNamesItsRole fails when a method is served that the table
// does not have, or the table has one that is not served.
func TestEveryMethodNamesItsRole(t *testing.T) {
	s := New(Options{})
	t.Cleanup(s.grpc.Stop)
	served := map[string]bool{}
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + name + "/" + m.Name
			served[full] = true
			a, ok := methods[full]
			switch {
			case !ok || a.who == nobody:
				t.Errorf("%s: no entry says who may call it", full)
			case a.who == operator && a.role == "":
				t.Errorf("%s: no role", full)
			}
		}
	}
	if len(served) == 0 {
		t.Fatal("nothing is served")
	}
	for full := range methods {
		if !served[full] {
			t.Errorf("%s: in the table, but not served", full)
		}
	}
}

var _ grpc.ServerStream = (*callerStream)(nil)
