package generator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sshca"
)

// pairOf runs what makes a pair of SSH keys, and names its files.
func pairOf(name string, newPair func(io.Reader) (sshca.Pair, error)) func(context.Context, io.Reader, Inputs) (Files, error) {
	return func(_ context.Context, random io.Reader, _ Inputs) (Files, error) {
		p, err := newPair(random)
		if err != nil {
			return nil, err
		}
		return Files{name: NewValue(p.Private), name + ".pub": NewValue(p.Public)}, nil
	}
}

func ed25519Pair(name, comment string) func(context.Context, io.Reader, Inputs) (Files, error) {
	return pairOf(name, func(random io.Reader) (sshca.Pair, error) { return sshca.NewKey(random, comment) })
}

func sshHostKeyKind() Kind {
	const name = "ssh.id_ed25519"
	k := Kind{Name: "ssh-host-key", Summary: "a host's Ed25519 key for sshd", Clan: "openssh"}
	return newKind(k, struct{}{}, func(machine string, _ struct{}) (*Generator, error) {
		return &Generator{Files: []File{secret(name), public(name + ".pub")}, run: ed25519Pair(name, "")}, wantMachine(machine)
	})
}

type rsaSettings struct {
	Bits int `json:"bits" doc:"size of the key, 2048 to 8192"`
}

func sshHostKeyRSAKind() Kind {
	const name = "ssh.id_rsa"
	k := Kind{Name: "ssh-host-key-rsa", Summary: "a host's RSA key for sshd, for clients that know nothing better; takes seconds", Clan: "openssh-rsa"}
	return newKind(k, rsaSettings{Bits: 4096}, func(machine string, s rsaSettings) (*Generator, error) {
		run := pairOf(name, func(io.Reader) (sshca.Pair, error) { return sshca.NewRSAKey(s.Bits, "") })
		return &Generator{Files: []File{secret(name), public(name + ".pub")}, run: run},
			errors.Join(wantMachine(machine), between("bits", s.Bits, sshca.MinRSABits, sshca.MaxRSABits))
	})
}

type sshUserKeySettings struct {
	Comment string `json:"comment" doc:"comment of the key; of a machine's the default is root@MACHINE"`
}

func sshUserKeyKind() Kind {
	const name = "id_ed25519"
	k := Kind{Name: "ssh-user-key", Summary: "an Ed25519 key with which somebody, root say, logs in elsewhere", Clan: "sshd-root-key"}
	return newKind(k, sshUserKeySettings{}, func(machine string, s sshUserKeySettings) (*Generator, error) {
		if s.Comment == "" && machine != "" {
			s.Comment = "root@" + machine
		}
		if strings.ContainsFunc(s.Comment, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(s.Comment) > 255 {
			return nil, fmt.Errorf("comment: %q: want at most 255 characters of one line", s.Comment)
		}
		return &Generator{Files: []File{secret(name), public(name + ".pub")}, run: ed25519Pair(name, s.Comment)}, nil
	})
}

func sshCAKind() Kind {
	const name = "id_ed25519"
	k := Kind{Name: "ssh-ca", Summary: "the key that signs SSH certificates; no machine gets it", Clan: "openssh-ca"}
	return newKind(k, struct{}{}, func(string, struct{}) (*Generator, error) {
		return &Generator{Files: []File{kept(secret(name)), kept(public(name + ".pub"))}, run: ed25519Pair(name, "")}, nil
	})
}

type hostCertificateSettings struct {
	Domains []string `json:"domains" doc:"the certificate is for MACHINE.DOMAIN of each; there must be one"`
	HostKey string   `json:"host_key" doc:"the generator of the host's key"`
	CA      string   `json:"ca" doc:"the generator of the CA's key"`
}

func sshHostCertificateKind() Kind {
	k := Kind{Name: "ssh-host-certificate", Summary: "a certificate of the CA for a host's key, for ever", Clan: "openssh-cert"}
	defaults := hostCertificateSettings{HostKey: "openssh", CA: "openssh-ca"}
	return newKind(k, defaults, func(machine string, s hostCertificateSettings) (*Generator, error) {
		err := errors.Join(wantMachine(machine), fileName("host_key", s.HostKey), fileName("ca", s.CA), between("domains", len(s.Domains), 1, sshca.MaxPrincipals))
		domains := map[string]any{}
		var principals []string
		for _, d := range s.Domains {
			err = errors.Join(err, domainName("domains", d))
			if domains[d] == nil {
				principals = append(principals, machine+"."+d)
			}
			domains[d] = d
		}
		if err != nil {
			return nil, err
		}
		key, ca := Read{s.HostKey, "ssh.id_ed25519.pub"}, Read{s.CA, "id_ed25519"}
		const name = "ssh.id_ed25519-cert.pub"
		return &Generator{
			Files:      []File{public(name)},
			Reads:      []Read{key, ca},
			Validation: map[string]any{"name": machine, "domains": domains},
			run: func(_ context.Context, random io.Reader, in Inputs) (Files, error) {
				host := sshca.Host{ID: machine, Principals: principals}
				line, err := sshca.HostCertificate(random, in.read(ca), in.read(key), host, key.File)
				if err != nil {
					return nil, err
				}
				return Files{name: NewValue(line)}, nil
			},
		}, nil
	})
}

type userCertificateSettings struct {
	ID           string   `json:"id" doc:"who it is for, as sshd logs it; must be given"`
	Principals   []string `json:"principals" doc:"accounts that may be logged into; there must be one"`
	Hours        int      `json:"hours" doc:"how long it holds, 1 to 168, from five minutes before it is made"`
	Serial       *uint64  `json:"serial" doc:"what a revocation list names it by; drawn where it is not given"`
	Permit       []string `json:"permit" doc:"extensions: permit-pty, permit-port-forwarding, permit-agent-forwarding, permit-X11-forwarding, permit-user-rc"`
	From         []string `json:"source_addresses" doc:"prefixes that it may be used from; without any, anywhere"`
	ForceCommand string   `json:"force_command" doc:"run instead of what is asked for"`
	Key          string   `json:"key" doc:"the generator of the key, an ssh-user-key"`
	CA           string   `json:"ca" doc:"the generator of the CA's key"`
}

// skew is how much earlier than it was made a certificate begins to hold: clocks
// of hosts differ.
const skew = 5 * time.Minute

func sshUserCertificateKind() Kind {
	k := Kind{Name: "ssh-user-certificate", Summary: "a certificate of the CA for a person's key, for hours"}
	defaults := userCertificateSettings{Hours: 8, Permit: []string{"permit-pty", "permit-port-forwarding"}, Key: "ssh-user-key", CA: "openssh-ca"}
	return newKind(k, defaults, func(_ string, s userCertificateSettings) (*Generator, error) {
		if s.ID == "" {
			return nil, errors.New("id: who is it for?")
		}
		err := errors.Join(fileName("key", s.Key), fileName("ca", s.CA), between("hours", s.Hours, 1, 168), between("principals", len(s.Principals), 1, sshca.MaxPrincipals))
		for _, p := range s.Permit {
			err = errors.Join(err, oneOf("permit", p, sshca.Extensions...))
		}
		var sources []netip.Prefix
		for _, from := range s.From {
			prefix, parseErr := netip.ParsePrefix(from)
			if parseErr != nil || prefix != prefix.Masked() {
				err = errors.Join(err, fmt.Errorf("source_addresses: %q is no prefix, such as 192.0.2.0/24 or fd00::1/128", from))
			}
			sources = append(sources, prefix)
		}
		if err != nil {
			return nil, err
		}
		key, ca := Read{s.Key, "id_ed25519.pub"}, Read{s.CA, "id_ed25519"}
		const name = "id_ed25519-cert.pub"
		return &Generator{
			Files: []File{kept(public(name))},
			Reads: []Read{key, ca},
			run: func(_ context.Context, random io.Reader, in Inputs) (Files, error) {
				user := sshca.User{
					ID: s.ID, Principals: slices.Clone(s.Principals), Permit: s.Permit, SourceAddresses: sources, ForceCommand: s.ForceCommand,
					From: in.Now.Add(-skew), Until: in.Now.Add(time.Duration(s.Hours) * time.Hour),
				}
				if s.Serial != nil {
					user.Serial = *s.Serial
				} else {
					b, err := draw(random, 8)
					if err != nil {
						return nil, err
					}
					user.Serial = binary.BigEndian.Uint64(b)
				}
				line, err := sshca.UserCertificate(random, in.read(ca), in.read(key), user, key.File)
				if err != nil {
					return nil, err
				}
				return Files{name: NewValue(line)}, nil
			},
		}, nil
	})
}
