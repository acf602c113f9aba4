package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// hostKeyFiles are those of generators of the kinds ssh-host-key and ssh-host-key-rsa, and
// hostCertificate that of ssh-host-certificate; clan's are called so too.
var hostKeyFiles = []string{"ssh.id_ed25519.pub", "ssh.id_rsa.pub"}

const hostCertificate = "ssh.id_ed25519-cert.pub"

// hostName has nothing that known_hosts would take for a pattern, a list or a line.
var hostName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func newSSHKnownHostsCommand(o *options) *cobra.Command {
	var ca string
	cmd := &cobra.Command{
		Use:   "known-hosts",
		Short: "Print known_hosts lines for all machines",
		Long: `Print lines for known_hosts: the CA's, for the names that hosts have certificates for, and
keys of those that have none, under the machine's name. Names that a certificate has are
checked to be of that machine. No private key is needed.`,
		Example: "  fleetctl ssh known-hosts >~/.ssh/known_hosts.d/fleet",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSSHKnownHosts(cmd.Context(), o, ca) },
	}
	cmd.Flags().StringVar(&ca, "ca", defaultCA, "`generator` of the CA's key")
	return cmd
}

// knownHost is a line of known_hosts, in JSON.
type knownHost struct {
	Machine string   `json:"machine,omitempty"`
	CA      bool     `json:"ca"`
	Names   []string `json:"names"`
	Key     string   `json:"key"`
}

func runSSHKnownHosts(ctx context.Context, o *options, ca string) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	hosts, err := v.knownHosts(t, ca)
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(hosts)
	}
	for _, h := range hosts {
		mark := ""
		if h.CA {
			mark = "@cert-authority "
		}
		p.Printf("%s%s %s\n", mark, strings.Join(h.Names, ","), h.Key)
	}
	return nil
}

// knownHosts are the lines: one for the CA, and one for each key of a host that the CA did
// not certify.
func (v *values) knownHosts(t *vars.Tree, ca string) ([]knownHost, error) {
	var certifier ssh.PublicKey
	hosts := []knownHost{}
	if g, err := v.ca(ca); err == nil {
		line, err := v.caPublic(t, g)
		if err != nil {
			return nil, err
		}
		if certifier, _, _, _, err = ssh.ParseAuthorizedKey(line); err != nil {
			return nil, fmt.Errorf("the public key of %s: %w", ca, err)
		}
	}
	var names []string
	for _, m := range v.fleet.Machines() {
		list, err := v.valuesOf(t, string(m.Name))
		if err != nil {
			return nil, err
		}
		certified, keys := []string{}, []knownHost{}
		for _, f := range list {
			if f.Secret || !f.Exists || f.File != hostCertificate && !slices.Contains(hostKeyFiles, f.File) {
				continue
			}
			line, err := t.Value(f.Path)
			if err != nil {
				return nil, err //nolint:wrapcheck // It names the value.
			}
			key, _, _, _, err := ssh.ParseAuthorizedKey(line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			if cert, is := key.(*ssh.Certificate); is {
				if certified, err = principalsOf(cert, certifier, string(m.Name)); err != nil {
					return nil, ui.WithHint(fmt.Errorf("%s: %w", f.Path, err), "find out who made it; fleetctl vars rotate makes it anew")
				}
				continue
			}
			keys = append(keys, knownHost{string(m.Name), false, []string{string(m.Name)}, oneLine(key)})
		}
		if names = append(names, certified...); len(certified) == 0 {
			hosts = append(hosts, keys...)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		hosts = slices.Insert(hosts, 0, knownHost{"", true, slices.Compact(names), oneLine(certifier)})
	}
	if len(hosts) == 0 {
		return nil, ui.WithHint(errors.New("no machine has a key or a certificate of a host"),
			"declare generators of the kinds ssh-host-key, ssh-ca and ssh-host-certificate, and run fleetctl vars generate")
	}
	return hosts, nil
}

// principalsOf are the names of a host's certificate, all of which begin with the
// machine's name: else one host could pass for another.
func principalsOf(cert *ssh.Certificate, ca ssh.PublicKey, machine string) ([]string, error) {
	if ca == nil || cert.CertType != ssh.HostCert || string(cert.SignatureKey.Marshal()) != string(ca.Marshal()) {
		return nil, errors.New("it is no host certificate of the CA")
	}
	check := &ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, _ string) bool { return string(key.Marshal()) == string(ca.Marshal()) }}
	for _, name := range cert.ValidPrincipals {
		if name != machine && !strings.HasPrefix(name, machine+".") || !hostName.MatchString(name) {
			return nil, fmt.Errorf("it is for %.100q, which is no name of %s", name, machine)
		}
		if err := check.CheckCert(name, cert); err != nil {
			return nil, err //nolint:wrapcheck // It says what failed.
		}
	}
	return cert.ValidPrincipals, nil
}

func oneLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
