package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// applyTimeout bounds handing a file over, which may be as large as a bundle.
const applyTimeout = 30 * time.Minute

func newApplyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "apply FILE",
		Short: "Hand a signed generation over, without any coordinator",
		Long: `Hand over a signed generation that "fleetctl carry" wrote to FILE ("-" reads
standard input), where no coordinator can bring it. The host verifies it exactly
as it would a coordinator's answer and works towards it: fleet-agent status tells
how far it is. That it was handed over here, and by whom, is on record, and
reported when the coordinator is back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runApply(cmd.Context(), o, args[0]) },
	}
}

func runApply(ctx context.Context, o *options, name string) error {
	in := o.stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // The operator names the file.
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	return o.askWithin(ctx, applyTimeout, func(ctx context.Context, c *control.Client) error {
		profile, ref, err := c.Apply(ctx, in)
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		p := o.printer()
		if p.JSON() {
			return p.Value(map[string]any{"profile": profile, "target": refJSON(ref)}) //nolint:wrapcheck // Of the output.
		}
		p.Printf("%s: working towards %s\n", profile, refText(ref))
		return nil
	})
}

func newTrustCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "trust", Short: "Which signatures this host trusts"}
	c.AddCommand(newTrustResetCommand(o))
	return c
}

func newTrustResetCommand(o *options) *cobra.Command {
	var pin string
	c := &cobra.Command{
		Use:   "reset FILE --pin DIGEST",
		Short: "Start from another trust root",
		Long: `Start from the trust root in FILE ("-" reads standard input) instead of the one
that this host was enrolled with: for when the fleet's root keys are lost, and it
made new ones. DIGEST is that root's, as whoever keeps the fleet's repository
says; it must fit.

What only the old keys signed is refused from then on, and numbers are counted
anew; what runs goes on running. The reset and who did it are on record, and
reported when the coordinator is back.`,
		Args: cobra.ExactArgs(1),
		PreRunE: func(*cobra.Command, []string) error {
			if _, err := fleet.ParseDigest(pin); err != nil {
				return ui.WithHint(fmt.Errorf("--pin: %w", err), "fleetctl trust show prints the digest of the first trust root")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTrustReset(cmd.Context(), o, args[0], fleet.Digest(pin))
		},
	}
	c.Flags().StringVar(&pin, "pin", "", "`digest` of the trust root, as the fleet's repository has it")
	return c
}

func runTrustReset(ctx context.Context, o *options, name string, pin fleet.Digest) error {
	root, err := readRoot(o.stdin, name)
	if err != nil {
		return err
	}
	return o.ask(ctx, func(ctx context.Context, c *control.Client) error {
		version, err := c.ResetTrust(ctx, root, pin)
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		p := o.printer()
		if p.JSON() {
			return p.Value(map[string]any{"version": version, "digest": pin}) //nolint:wrapcheck // Of the output.
		}
		p.Printf("this host trusts version %d (%s) now; publish with the keys of that root\n", version, pin.Short())
		return nil
	})
}

// readRoot reads a trust root, within the bound of a document.
func readRoot(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // The operator names the file.
		if err != nil {
			return nil, err //nolint:wrapcheck // It says what failed.
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	const most = 2*fleet.MaxDocumentBytes - 1024
	root, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading trust root: %w", err)
	}
	if len(root) > most {
		return nil, errors.New("reading trust root: the file is larger than any trust root")
	}
	return root, nil
}
