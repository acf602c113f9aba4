package generator

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/zerotier"
)

// Names of clan's generators: others read them.
func identityOf(machine string) Read { return Read{"zerotier-identity-" + machine, "identity-secret"} }
func networkOf(instance string) Read { return Read{"zerotier-network-" + instance, "network-id"} }

// zerotierMachine is the machine that one of ZeroTier's generators is about.
// They are shared, as clan's are, so the settings name it.
func zerotierMachine(setting, name string) error {
	if _, err := fleet.ParseMachineName(name); err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	return nil
}

func zerotierIdentityKind() Kind {
	k := Kind{Name: "zerotier-identity", Summary: "a machine's ZeroTier identity; takes a tenth of a second of all processors", Clan: "zerotier-identity-MACHINE"}
	return newKind(k, struct{}{}, func(string, struct{}) (*Generator, error) {
		f := secret("identity-secret")
		f.RestartUnits = []string{"zerotierone.service"}
		return &Generator{
			Files: []File{f},
			run: func(ctx context.Context, random io.Reader, _ Inputs) (Files, error) {
				id, err := zerotier.Generate(ctx, random)
				if err != nil {
					return nil, err
				}
				defer id.Clear()
				return Files{f.Name: NewValue(id.Secret())}, nil
			},
		}, nil
	})
}

type zerotierNetworkSettings struct {
	Controller string `json:"controller" doc:"the machine that controls the network; must be given"`
}

func zerotierNetworkKind() Kind {
	k := Kind{Name: "zerotier-network", Summary: "the id of a ZeroTier network under its controller", Clan: "zerotier-network-INSTANCE"}
	return newKind(k, zerotierNetworkSettings{}, func(_ string, s zerotierNetworkSettings) (*Generator, error) {
		if err := zerotierMachine("controller", s.Controller); err != nil {
			return nil, err
		}
		controller := identityOf(s.Controller)
		return &Generator{
			Files: []File{kept(public("network-id"))},
			Reads: []Read{controller},
			run: func(_ context.Context, random io.Reader, in Inputs) (Files, error) {
				a, err := addressIn(in, controller)
				if err != nil {
					return nil, err
				}
				n, err := zerotier.NewNetworkID(random, a)
				if err != nil {
					return nil, err
				}
				return Files{"network-id": NewValue([]byte(n.String()))}, nil
			},
		}, nil
	})
}

type zerotierIPSettings struct {
	Machine  string `json:"machine" doc:"the member; must be given"`
	Instance string `json:"instance" doc:"the network's instance, as in zerotier-network-INSTANCE"`
}

func zerotierIPKind() Kind {
	k := Kind{Name: "zerotier-ip", Summary: "a machine's IPv6 address in a ZeroTier network (RFC 4193), computed", Clan: "zerotier-ip-MACHINE-INSTANCE"}
	return newKind(k, zerotierIPSettings{Instance: "zerotier"}, func(_ string, s zerotierIPSettings) (*Generator, error) {
		if err := errors.Join(zerotierMachine("machine", s.Machine), fileName("instance", s.Instance)); err != nil {
			return nil, err
		}
		member, network := identityOf(s.Machine), networkOf(s.Instance)
		return &Generator{
			Files: []File{kept(public("ip"))},
			Reads: []Read{member, network},
			run: func(_ context.Context, _ io.Reader, in Inputs) (Files, error) {
				a, err := addressIn(in, member)
				if err != nil {
					return nil, err
				}
				n, err := zerotier.ParseNetworkID(string(in.read(network)))
				if err != nil {
					return nil, fmt.Errorf("the file %s of %s: %w", network.File, network.Generator, err)
				}
				return Files{"ip": NewValue([]byte(n.RFC4193(a).Addr().String()))}, nil
			},
		}, nil
	})
}

// addressIn is the address of the identity in a file that is read.
func addressIn(in Inputs, r Read) (zerotier.Address, error) {
	id, err := zerotier.ParseIdentity(in.read(r))
	if err != nil {
		return 0, fmt.Errorf("the file %s of %s: %w", r.File, r.Generator, err)
	}
	defer id.Clear()
	return id.Address(), nil
}
