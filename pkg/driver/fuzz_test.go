package driver

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

// FuzzBuildRequest takes any request of a caller: what a driver gets of it is
// valid and comes back the same.
func FuzzBuildRequest(f *testing.F) {
	digest := fleet.DigestOf([]byte("b"))
	for _, req := range []BuildRequest{
		{
			Profile: fleet.System, Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: digest, Size: 1}},
			Blobs: map[fleet.Digest]string{digest: "/var/lib/fleet/blob"},
		},
		{Profile: "home/bob", Source: fleet.Source{Driver: "files", External: &fleet.ExternalSource{
			Config: json.RawMessage(`{"mode":"0644"}`), Files: &fleet.BundleSource{Digest: digest, Size: 7},
		}}},
		{Profile: fleet.System, Closure: "/run/closure", Source: fleet.Source{Driver: "nix", StorePath: &fleet.StorePathSource{
			Path: "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a", Closure: fleet.BlobRef{Digest: digest, Size: 9},
		}}},
	} {
		p, err := buildRequestToProto(req)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := buildRequest(p); err != nil {
			f.Error(err)
		}
		b, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, source := range []string{`{}`, `{"driver":"bundle"}`, `{"driver":"bundle","bundle":{"digest":"` + string(digest) + `","size":1},"driver":"nix"}`} {
		b, err := proto.Marshal(&driverv1.BuildRequest{Profile: "system", Source: []byte(source)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p driverv1.BuildRequest
		if proto.Unmarshal(data, &p) != nil {
			return
		}
		req, err := buildRequest(&p)
		if err != nil {
			if !errors.Is(err, ErrSource) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		if err := req.Source.Validate(); err != nil {
			t.Errorf("let through: %v", err)
		}
		for d, file := range req.Blobs {
			if _, err := fleet.ParseDigest(string(d)); err != nil || !filepath.IsAbs(file) {
				t.Errorf("let through: blob %s in %q", d, file)
			}
		}
		back, err := buildRequestToProto(req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := buildRequest(back)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(req, again, cmpopts.EquateEmpty(), meaning); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// meaning compares what messages mean; two that are empty are EquateEmpty's.
var meaning = cmp.FilterValues(func(a, b json.RawMessage) bool { return len(a)+len(b) > 0 }, cmp.Transformer("plain", plainJSON))

// plainJSON is a message without what means nothing in it.
func plainJSON(m json.RawMessage) (v any) {
	_ = json.Unmarshal(m, &v)
	return v
}

// FuzzActivation takes any answer of a plugin: what is let through is valid
// and comes back the same.
func FuzzActivation(f *testing.F) {
	seed, err := proto.Marshal(activationToProto(Activation{Activate: Action{Deadline: 1, Steps: []Step{
		{Exec: &Exec{Argv: []string{"/bin/true"}, OKCodes: []int{1}}},
		{Link: &Link{Path: "/a"}},
		{Exec: &Exec{
			Argv: []string{"/s"}, Unless: &Link{Path: "/p", Target: "/t"}, BusyCodes: []int{11}, FailedUnitsCode: 4, Contained: true,
			Parts:    []Part{{Name: "n", Heading: "h...", Ends: []string{"e"}, Rest: []string{"/r", "x"}}},
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
