package fleetctl

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/sshca"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newSSHRevokeCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	var why string
	cmd := &cobra.Command{
		Use:   "revoke SERIAL | NAME",
		Short: "Revoke a certificate, or all that somebody has",
		Long: `Revoke the certificate with a SERIAL, or all that still hold and are of the person NAME,
with their keys, and write ` + repo.SSHRevocations + ` anew, OpenSSH's revocation list, for sshd's
RevokedKeys. Hosts know it once it is part of what is published to them.

Certificates that have ended stay out of the list. The serials are in fleetctl ssh log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSSHRevoke(cmd.Context(), o, opts, args[0], why)
		},
	}
	opts.addTo(cmd)
	cmd.Flags().StringVar(&why, "why", "", "`reason`, for the record")
	return cmd
}

// revokedCertificates is the JSON form of ssh revoke.
type revokedCertificates struct {
	Serials []string `json:"serials"`
	File    string   `json:"file"`
}

func runSSHRevoke(ctx context.Context, o *options, opts *varsOptions, of, why string) error {
	c, err := o.changeSSH(ctx, opts)
	if err != nil {
		return err
	}
	defer c.close()
	all, err := c.SSHLog()
	if err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	now := o.Now()
	over := map[uint64]bool{}
	for _, r := range all {
		over[r.Serial] = over[r.Serial] || r.Act == repo.SSHRevoked
	}
	var chosen []repo.SSHRecord
	for _, r := range all {
		if r.Act == repo.SSHCertified && !over[r.Serial] && r.Until.After(now) && (strconv.FormatUint(r.Serial, 10) == of || r.By == of) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return ui.WithHint(fmt.Errorf("no certificate that still holds is %s, or of somebody of that name", of), "fleetctl ssh log has all")
	}
	result := revokedCertificates{File: repo.SSHRevocations}
	for _, r := range chosen {
		revoked := repo.SSHRecord{Act: repo.SSHRevoked, Serial: r.Serial, Key: r.Key, Fingerprint: r.Fingerprint, CA: r.CA, Until: r.Until, Why: why}
		all = append(all, revoked)
		result.Serials = append(result.Serials, strconv.FormatUint(r.Serial, 10))
	}
	lists, err := revocationList(all, o)
	if err != nil {
		return err
	}
	// The list first: a record without it would pass for done.
	if err := c.Write(lists, "ssh", "revoked.krl"); err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	if err := c.record(ctx, "ssh: revoke "+of, all[len(all)-len(chosen):], repo.SSHRevocations); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	p.Printf("revoked %s: %s; publish what has sshd read %s\n", counted(len(chosen), "certificate"), strings.Join(result.Serials, ", "), repo.SSHRevocations)
	return nil
}

// revocationList is the list of what was revoked and would still hold. Where there are
// several CAs it is that of the newest, and of all keys: those are revoked for each.
func revocationList(all []repo.SSHRecord, o *options) ([]byte, error) {
	var r sshca.Revoked
	for _, rec := range slices.Backward(all) {
		if rec.Act != repo.SSHRevoked || !rec.Until.After(o.Now()) {
			continue
		}
		if r.CA == nil {
			r.CA = []byte(rec.CA)
		}
		if string(r.CA) == rec.CA {
			r.Serials = append(r.Serials, rec.Serial)
		}
		r.Keys = append(r.Keys, []byte(rec.Key))
	}
	return sshca.RevocationList(r, uint64(len(all)), o.Now(), "fleet") //nolint:wrapcheck // It says what failed.
}
