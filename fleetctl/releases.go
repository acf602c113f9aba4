package fleetctl

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type releasesOptions struct {
	Limit   uint32
	Waiting bool
}

func newReleasesCommand(o *options) *cobra.Command {
	opts := &releasesOptions{}
	cmd := &cobra.Command{
		Use:   "releases",
		Short: "List releases, newest first",
		Long: `List the coordinator's releases, newest first, with how many machines confirmed
each and on how many it failed. HERE says whether this repository has it: one
that nobody's repository has was signed with a stolen key.

JSON: {"releases": [{release, committed, actor, revision, machines, confirmed,
failed, in_repository}]}; with --waiting {"waiting": [{release, staged, actor,
revision, generations}]}`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runReleases(cmd.Context(), o, opts) },
	}
	cmd.Flags().Uint32VarP(&opts.Limit, "limit", "l", 20, "show at most this `many`")
	cmd.Flags().BoolVarP(&opts.Waiting, "waiting", "w", false, "list those that wait for signatures instead")
	return cmd
}

// releaseResult is one element of the JSON form of releases.
type releaseResult struct {
	Release      fleet.ReleaseID `json:"release"`
	Committed    time.Time       `json:"committed"`
	Actor        string          `json:"actor"`
	Revision     string          `json:"revision"`
	Machines     int             `json:"machines"`
	Confirmed    int             `json:"confirmed"`
	Failed       int             `json:"failed"`
	InRepository bool            `json:"in_repository"`
}

func runReleases(ctx context.Context, o *options, opts *releasesOptions) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	if opts.Waiting {
		return showWaiting(ctx, o, s)
	}
	here := map[fleet.ReleaseID]bool{}
	mine, err := s.workspace.Releases()
	if err != nil {
		return err
	}
	for _, r := range mine {
		here[r.ID] = true
	}
	list, err := s.Releases(ctx, opts.Limit)
	if err != nil {
		return err
	}
	out := struct {
		Releases []releaseResult `json:"releases"`
	}{Releases: []releaseResult{}}
	p := o.printer()
	var rows [][]string
	for _, r := range list {
		out.Releases = append(out.Releases, releaseResult{
			Release: r.ID, Committed: r.Committed, Actor: r.Actor, Revision: r.Revision,
			Machines: r.Machines, Confirmed: r.Confirmed, Failed: r.Failed, InRepository: here[r.ID],
		})
		mark := "yes"
		if !here[r.ID] {
			mark = p.Paint(ui.ToneWarn, "NO")
		}
		rows = append(rows, []string{
			string(r.ID), r.Committed.UTC().Format(time.DateTime), r.Actor, dash(shortRevision(r.Revision)),
			strconv.Itoa(r.Machines), strconv.Itoa(r.Confirmed), strconv.Itoa(r.Failed), mark,
		})
	}
	if p.JSON() {
		return p.Value(out)
	}
	p.Table([]string{"RELEASE", "COMMITTED (UTC)", "BY", "REVISION", "MACHINES", "CONFIRMED", "FAILED", "HERE"}, rows)
	return nil
}

// shortRevision is a commit as git shows it.
func shortRevision(rev string) string {
	const short = 12
	if len(rev) <= short {
		return rev
	}
	if rev[len(rev)-1] == '+' {
		return rev[:short] + "+"
	}
	return rev[:short]
}
