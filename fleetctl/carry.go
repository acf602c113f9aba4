package fleetctl

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const carryHelp = `Write the newest generation of MACHINE, with everything that it names, to FILE,
to be taken to a host that no coordinator reaches. There, root hands it over with

  fleet-agent apply FILE

It needs this repository only, and no key: what is in FILE was signed when it
was published, and is useless to any other host. Secrets in it stay encrypted.

JSON: {file, machine, profile, release, number, digest, blobs, bytes}`

type carryOptions struct {
	Profile, Release, File string
	// set by the check of the command line
	profile fleet.ProfileName
}

func newCarryCommand(o *options) *cobra.Command {
	opts := &carryOptions{}
	cmd := &cobra.Command{
		Use:               "carry MACHINE --file FILE",
		Short:             "Write a generation to a file, to be applied on its host by hand",
		Long:              carryHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		PreRunE: func(*cobra.Command, []string) (err error) {
			if opts.File == "" {
				return errors.New("--file is missing: name the file to write, or - for standard output")
			}
			if opts.File == "-" && ui.OnTerminal(o.Stdout) {
				return errors.New("the file is a tar: not to a terminal")
			}
			opts.profile, err = fleet.ParseProfileName(opts.Profile)
			return err //nolint:wrapcheck // It says what failed.
		},
		RunE: func(_ *cobra.Command, args []string) error { return runCarry(o, opts, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&opts.File, "file", "f", "", "`file` to write; - for standard output")
	f.StringVar(&opts.Profile, "profile", string(fleet.System), "`profile` of the machine")
	f.StringVar(&opts.Release, "release", "", "the generation of this `release`, not the newest")
	return cmd
}

func runCarry(o *options, opts *carryOptions, name string) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	m, err := w.machine(name)
	if err != nil {
		return err
	}
	dep, err := w.fleet.Settings(m.Name)
	if err != nil {
		return err
	}
	pub := &publisher.Publisher{Repo: w.Repository, Fleet: w.fleet.ID(), Now: o.Now}
	c, err := pub.Carry(m.Name, opts.profile, fleet.ReleaseID(opts.Release), dep.SourceOf(opts.profile).Bundle)
	if err != nil {
		return err
	}
	if opts.File == "-" {
		return c.Write(o.Stdout)
	}
	if err := atomicfile.Write(opts.File, 0o600, func(f io.Writer) error { return c.Write(f) }); err != nil {
		return repo.ExplainWrite(err, opts.File)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(map[string]any{
			"file": opts.File, "machine": m.Name, "profile": opts.profile, "release": c.Ref.Release,
			"number": c.Ref.Number.String(), "digest": c.Ref.Digest, "blobs": c.Blobs, "bytes": c.Bytes,
		})
	}
	if c.Release == repo.ReleasePrepared {
		_, _ = fmt.Fprintf(o.Stderr, "warning: release %s was signed and perhaps never committed: publish again when the coordinator is back\n", c.Ref.Release)
	}
	p.Printf("%s: generation %s of release %s, %s in %d blobs\n", opts.File, c.Ref.Number, c.Ref.Release, ui.Size(c.Bytes), c.Blobs)
	p.Printf("on %s, as root: fleet-agent apply FILE\n", m.Name)
	return nil
}
