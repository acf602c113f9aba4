package fleetctl

import (
	"context"
	"errors"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// stageResult is the JSON form of publish --stage.
type stageResult struct {
	Release  string         `json:"release"`
	Revision string         `json:"revision"`
	DryRun   bool           `json:"dry_run"`
	Sources  []stagedResult `json:"sources"`
	Skipped  []string       `json:"skipped"`
	Banned   []string       `json:"banned"`
	Warnings []string       `json:"warnings"`
}

type stagedResult struct {
	Machine string `json:"machine"`
	Profile string `json:"profile"`
	Source  any    `json:"source"`
}

// runStage stages instead of publishing.
func runStage(ctx context.Context, o *options, pub *publisher.Publisher, rep *reporter, req publisher.Request, left leftOut) error {
	if req.Refresh {
		return usageError{ui.WithHint(errors.New("--stage and --refresh exclude each other"), "a refresh needs the release key: leave --stage out")}
	}
	res, err := pub.Stage(ctx, req)
	if err != nil {
		return err
	}
	rep.progress.Done()
	out := stageResult{
		Release: string(res.Release), Revision: res.Revision, DryRun: req.DryRun, Sources: []stagedResult{},
		Skipped: append([]string{}, left.noSource...), Banned: append([]string{}, left.banned...), Warnings: append([]string{}, rep.warnings...),
	}
	var rows [][]string
	for _, g := range res.Generations {
		out.Sources = append(out.Sources, stagedResult{string(g.Machine), string(g.Profile), g.Source})
		rows = append(rows, []string{string(g.Machine), string(g.Profile), sourceText(g.Source)})
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(out)
	}
	p.Table([]string{"MACHINE", "PROFILE", "SOURCE"}, rows)
	if req.DryRun {
		p.Printf("Nothing was staged: this was a dry run.\n")
		return nil
	}
	p.Printf("Staged release %s, revision %s. Hosts see nothing of it until somebody with the release key runs:\n  fleetctl sign %s\n",
		res.Release, dash(shortRevision(res.Revision)), res.Release)
	return nil
}
