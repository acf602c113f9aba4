package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/gitrepo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

const (
	// sshCAFile is the key's file of a generator of the kind ssh-ca, and of clan's.
	sshCAFile = "id_ed25519"
	defaultCA = "openssh-ca"
	// emergencyKind makes recovery passwords.
	emergencyKind = "emergency-access"
)

func newSSHCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh",
		Short: "Certificates for people, known hosts, revocations and recovery passwords",
		Long: `Have people log in to hosts by certificates of the fleet's own CA, a value that a generator
of the kind ssh-ca makes, and know hosts by theirs.

Each certificate and each look at a recovery password has a line in ` + repo.SSHLogFile + `, which
is committed before either is handed out. The CA's key is opened in memory. Whoever can
open it can sign without this command, and without a line: its readers are those whom you
trust with all hosts.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSSHCertificateCommand(o), newSSHKnownHostsCommand(o), newSSHRevokeCommand(o), newSSHRecoveryCommand(o), newSSHLogCommand(o))
	explainIn(cmd)
	return cmd
}

// sshChange is a change of what is recorded, while nobody else makes one.
type sshChange struct {
	*values

	o      *options
	opts   *varsOptions
	tree   *vars.Tree
	me     string
	git    *gitrepo.Repository
	unlock func()
}

// changeSSH begins one. The caller closes it.
func (o *options) changeSSH(ctx context.Context, opts *varsOptions) (_ *sshChange, err error) {
	c := &sshChange{o: o, opts: opts}
	if c.values, err = o.values(ctx); err != nil {
		return nil, err
	}
	if c.tree, err = c.values.tree(); err != nil {
		return nil, err
	}
	ids, _, err := o.identities()
	if err != nil {
		return nil, err
	}
	me, err := c.tree.Person(ids, nil)
	if err != nil {
		return nil, ui.WithHint(err, "fleetctl vars keygen adds you")
	}
	c.me = me.Name
	if c.unlock, err = c.Lock(); err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	if !opts.NoCommit {
		if c.git, err = gitrepo.Find(ctx, c.Dir()); err == nil && c.git != nil {
			err = c.git.Ready(ctx, "ssh")
		}
	}
	if err != nil {
		c.unlock()
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	return c, nil
}

func (c *sshChange) close() { c.unlock() }

// record puts acts down, with files that follow from them, before anything comes of it.
func (c *sshChange) record(ctx context.Context, message string, acts []repo.SSHRecord, files ...string) error {
	for i := range acts {
		acts[i].At, acts[i].By = c.o.Now().UTC().Truncate(time.Second), c.me
	}
	if err := c.AppendSSHLog(acts...); err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	if c.git == nil {
		return nil
	}
	return c.git.Commit(context.WithoutCancel(ctx), message, append([]string{repo.SSHLogFile}, files...)) //nolint:wrapcheck // It says what failed.
}

// secret opens a value with the person's keys. The caller clears it.
func (c *sshChange) secret(path string) ([]byte, error) {
	ids, _, err := c.o.identities()
	if err != nil {
		return nil, err
	}
	return c.tree.Read(path, ids) //nolint:wrapcheck // It names the value.
}

// ca finds the generator of a CA's key.
func (v *values) ca(name string) (*generate.Generator, error) {
	for _, g := range v.set.All() {
		if f, ok := g.File(sshCAFile); ok && f.Secret && g.Name == name && g.Share {
			return g, nil
		}
	}
	return nil, ui.WithHint(fmt.Errorf("no generator %q makes a key of an SSH CA that machines share", name),
		"declare one in vars.generators of fleet.yaml: "+name+": {kind: ssh-ca, share: true}; fleetctl vars generate then makes it")
}

// public is the CA's .pub line.
func (v *values) caPublic(t *vars.Tree, ca *generate.Generator) ([]byte, error) {
	line, err := t.Value(ca.ID(sshCAFile + ".pub").Path())
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("the public key of %s: %w", ca.Name, err), "fleetctl vars generate makes it")
	}
	return line, nil
}

func newSSHLogCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "log",
		Short: "Show who was certified, what was revoked, and who read recovery passwords",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runSSHLog(o) },
	}
}

func runSSHLog(o *options) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	all, err := w.SSHLog()
	if err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(append([]repo.SSHRecord{}, all...))
	}
	var rows [][]string
	for _, r := range all {
		of := strconv.FormatUint(r.Serial, 10)
		detail := r.Fingerprint
		switch r.Act {
		case repo.SSHCertified:
			detail = fmt.Sprintf("%s as %s until %s", r.Fingerprint, strings.Join(r.Principals, ", "), r.Until.Format(time.RFC3339))
		case repo.SSHRead:
			of, detail = string(r.Machine), r.Value
		case repo.SSHRevoked:
		}
		rows = append(rows, []string{r.At.Format(time.RFC3339), r.By, string(r.Act), of, detail, r.Why})
	}
	p.Table([]string{"TIME", "BY", "ACT", "OF", "DETAIL", "WHY"}, rows)
	return nil
}

func newSSHRecoveryCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	var why string
	cmd := &cobra.Command{
		Use:   "recovery MACHINE",
		Short: "Show a machine's recovery password, on record",
		Long: `Show the recovery password of MACHINE, which a generator of the kind ` + emergencyKind + ` makes,
once that is on record. Only its readers can open it: users and groups that read all
values, and no machine. fleetctl vars rotate makes another one after it was used.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSSHRecovery(cmd.Context(), o, opts, args[0], why)
		},
	}
	opts.addTo(cmd)
	cmd.Flags().StringVar(&why, "why", "", "`reason`, for the record")
	return cmd
}

// recoveryPassword says whether a value is one.
func recoveryPassword(f value) bool {
	return f.Generator != nil && f.Generator.Kind == emergencyKind && f.Secret && !strings.HasSuffix(f.File, "-hash")
}

func runSSHRecovery(ctx context.Context, o *options, opts *varsOptions, machine, why string) error {
	if len(why) > 200 || strings.ContainsAny(why, "\r\n") {
		return usageError{errors.New("--why: want one line of at most 200 bytes")}
	}
	c, err := o.changeSSH(ctx, opts)
	if err != nil {
		return err
	}
	defer c.close()
	list, err := c.valuesOf(c.tree, machine)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, recoveryPassword)
	if i < 0 || !list[i].Exists {
		return ui.WithHint(fmt.Errorf("machine %s has no recovery password", machine), "declare a generator of the kind "+emergencyKind+" in vars.generators of fleet.yaml, and run fleetctl vars generate")
	}
	text, err := c.secret(list[i].Path)
	if err != nil {
		return err
	}
	defer clear(text)
	err = c.record(ctx, "ssh: read the recovery password of "+machine, []repo.SSHRecord{{
		Act: repo.SSHRead, Machine: fleet.MachineName(machine), Value: list[i].name(), Why: why,
	}})
	if err != nil {
		return err
	}
	if ui.OnTerminal(o.Stdout) {
		text = append(text, '\n')
	}
	_, err = o.Stdout.Write(text)
	return err
}
