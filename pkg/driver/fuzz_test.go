package driver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

// FuzzActivation takes any answer of a plugin: what is let through is valid
// and comes back the same.
func FuzzActivation(f *testing.F) {
	seed, err := proto.Marshal(activationToProto(Activation{Activate: Action{Deadline: 1, Steps: []Step{
		{Exec: &Exec{Argv: []string{"/bin/true"}, OKCodes: []int{1}}},
		{Link: &Link{Path: "/a"}},
		{Exec: &Exec{
			Argv: []string{"/s"}, Unless: &Link{Path: "/p", Target: "/t"}, BusyCodes: []int{11}, FailedUnitsCode: 4, Contained: true,
			Meanings: map[int]string{100: "reboot"},
		}},
		{Sync: &Sync{Paths: []string{"/nix"}}},
	}}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var p driverv1.ActivationResponse
		if proto.Unmarshal(data, &p) != nil {
			return
		}
		a, err := activationFromProto(&p)
		if err != nil {
			return
		}
		if err := a.Validate(); err != nil {
			t.Errorf("let through: %v", err)
		}
		again, err := activationFromProto(activationToProto(a))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
