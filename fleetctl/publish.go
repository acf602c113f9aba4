package fleetctl

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const publishHelp = `Publish a release: one signed generation for each profile of each MACHINE (default:
all that are not disabled and have a source or profiles). Hosts see all of it or
nothing.

Bundles and plugins are pinned by digest. Flakes are locked, evaluated once for all
machines and pinned by revision, hash and out path; with build: true in fleet.yaml,
or --build, they are built here too, and their whole closure is signed with the
builder key, as that of store paths always is. What is not pinned so far is shown:
"closure unpinned" where hosts still trust their binary caches, "unpinned" where
not even the out path is known (--no-eval). A flake must be committed.

Secrets are encrypted anew only where plaintext or readers changed, and numbers go
above everything ever signed that is known here or at the coordinator. The release
is written to releases/ before the coordinator hears of it; commit that file. An
interrupted publish shows nothing to hosts and can be run again.

With --stage nothing is signed: sources are evaluated, pinned and uploaded, and
the release waits for somebody with the release key (fleetctl sign). That is for
CI, whose operator needs the role deployer and no key. Where the trust root wants
several release keys, a publish with one of them waits for the others likewise.

JSON: {release, expected_head, dry_run, waiting, generations: [{machine, profile, number,
digest, source, expires, secrets, secrets_changed, pinned, unbuilt, same}], recorded_hosts,
skipped, warnings, alarms}`

type publishOptions struct {
	DryRun, Refresh, Build, NoEval, Stage bool
}

func newPublishCommand(o *options) *cobra.Command {
	opts := &publishOptions{}
	cmd := &cobra.Command{
		Use:               "publish [MACHINE…]",
		Short:             "Sign and publish a release",
		Long:              publishHelp,
		ValidArgsFunction: o.completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPublish(cmd.Context(), o, opts, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.DryRun, "dry-run", "n", false, "show what would be published; change nothing")
	f.BoolVar(&opts.Refresh, "refresh", false, "sign again what was published last, with a new expiry")
	f.BoolVar(&opts.Stage, "stage", false, "pin and upload only, for somebody with the release key to sign")
	f.BoolVar(&opts.Build, "build", false, "build all flakes here and pin their closures, as build: true does")
	f.BoolVar(&opts.NoEval, "no-eval", false, "do not evaluate flakes; their generations are unpinned")
	cmd.MarkFlagsMutuallyExclusive("build", "no-eval")
	cmd.MarkFlagsMutuallyExclusive("build", "refresh")
	cmd.MarkFlagsMutuallyExclusive("no-eval", "refresh")
	return cmd
}

// publishResult is the JSON form of publish.
type publishResult struct {
	Release      fleet.ReleaseID `json:"release"`
	ExpectedHead fleet.ReleaseID `json:"expected_head"`
	DryRun       bool            `json:"dry_run"`
	// Waiting says that more signatures are needed: hosts see nothing of it yet.
	Waiting     bool              `json:"waiting"`
	Generations []publishedResult `json:"generations"`
	// Recorded are machines whose keys were recorded in hosts/.
	Recorded []fleet.MachineName `json:"recorded_hosts"`
	Skipped  []string            `json:"skipped"`
	Banned   []string            `json:"banned"`
	Warnings []string            `json:"warnings"`
	Alarms   []string            `json:"alarms"`
}

type publishedResult struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	// Number is "epoch.number".
	Number string `json:"number"`
	// Digest of the signed document; empty with dry_run.
	Digest         fleet.Digest `json:"digest"`
	Source         fleet.Source `json:"source"`
	Expires        time.Time    `json:"expires"`
	Secrets        int          `json:"secrets"`
	SecretsChanged int          `json:"secrets_changed"`
	// Pinned is "closure", "out-path" or "nothing"; bundles are pinned whole.
	Pinned pinning `json:"pinned"`
	// Unbuilt says that this dry run left out to build it and pin its closure.
	Unbuilt bool `json:"unbuilt,omitempty"`
	// Same says that source and secrets are those of the generation before.
	Same bool `json:"same"`
}

func runPublish(ctx context.Context, o *options, opts *publishOptions, names []string) error {
	go flakes.GetReady()
	w, err := o.open()
	if err != nil {
		return err
	}
	targets, left, err := selectTargets(w, names)
	if err != nil {
		return err
	}
	rep := &reporter{progress: o.progress()}
	defer rep.progress.Done()
	nix := o.nix(rep)
	if !opts.Refresh && !opts.NoEval {
		nix.Ahead(ctx, flakesOf(targets)) // Nix waits for that; the connection can wait.
		defer nix.Settle()
	}
	s, err := o.connectFrom(w)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	req := publisher.Request{
		Targets: targets, Inventory: s.inventory(),
		Refresh: opts.Refresh, Build: opts.Build, NoEval: opts.NoEval, DryRun: opts.DryRun,
		Revision: func() string { return revision(ctx, s.Dir()) },
	}
	pub := s.publisher(o, rep)
	pub.Nix = nix
	if opts.Stage {
		return runStage(ctx, o, pub, rep, req, left)
	}
	res, err := pub.Publish(ctx, req)
	if err != nil {
		return err
	}
	rep.progress.Done()
	return showPublished(o, res, opts.DryRun, left, rep)
}

// flakesOf are the references of what the targets get from flakes.
func flakesOf(targets []publisher.Target) []string {
	var refs []string
	for _, t := range targets {
		if t.Source.Flake != "" {
			refs = append(refs, t.Source.Flake)
		}
	}
	return refs
}

func (s *session) publisher(o *options, rep publisher.Reporter) *publisher.Publisher {
	return &publisher.Publisher{
		Repo: s.Repository, Keys: s.keys, Coordinator: s.Client, Fleet: s.fleet.ID(),
		Nix: o.nix(rep), Operator: s.operator, Now: o.Now, Reporter: rep,
	}
}

func (o *options) nix(rep publisher.Reporter) *flakes.Nix {
	return &flakes.Nix{Program: o.Getenv("FLEET_NIX"), Progress: rep.Building}
}

// revision names the repository's commit, "+" behind it where the checkout
// differs from it; empty where git doesn't know. It is for people only.
func revision(ctx context.Context, dir string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output() //nolint:gosec // Fixed words.
		return strings.TrimSpace(string(out)), err
	}
	rev, err := git("rev-parse", "--verify", "--quiet", "HEAD")
	if err != nil {
		return ""
	}
	if changes, err := git("status", "--porcelain", "--untracked-files=no"); err == nil && changes != "" {
		rev += "+"
	}
	return rev
}

func showPublished(o *options, res *publisher.Result, dryRun bool, left leftOut, rep *reporter) error {
	out := publishResult{
		Release: res.Release, ExpectedHead: res.Expected, DryRun: dryRun, Waiting: res.Waiting,
		Generations: []publishedResult{}, Recorded: append([]fleet.MachineName{}, res.Recorded...), Skipped: append([]string{}, left.noSource...), Banned: append([]string{}, left.banned...),
		Warnings: append([]string{}, rep.warnings...), Alarms: append([]string{}, rep.alarms...),
	}
	var rows [][]string
	for _, g := range res.Generations {
		out.Generations = append(out.Generations, publishedResult{
			Machine: g.Machine, Profile: g.Profile, Number: g.Number.String(), Digest: g.Digest, Source: g.Source,
			Expires: g.Expires, Secrets: g.Secrets, SecretsChanged: g.SecretsChanged, Same: g.Same,
			Pinned: pinningOf(g.Source), Unbuilt: g.Unbuilt,
		})
		rows = append(rows, []string{
			string(g.Machine), string(g.Profile), g.Number.String(), dash(g.Digest.Short()), publishedSource(g), secretsText(g),
			g.Expires.UTC().Format(time.DateOnly),
		})
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(out)
	}
	p.Table([]string{"MACHINE", "PROFILE", "NUMBER", "DIGEST", "SOURCE", "SECRETS", "EXPIRES"}, rows)
	if len(left.noSource) > 0 {
		p.Printf("No source: %s\n", strings.Join(left.noSource, ", "))
	}
	if len(left.banned) > 0 {
		p.Printf("Banned: %s\n", strings.Join(left.banned, ", "))
	}
	if dryRun {
		p.Printf("Nothing was published: this was a dry run. The head is %s.\n", dash(string(res.Expected)))
		return nil
	}
	if res.Waiting {
		p.Printf("Release %s is signed, and more signatures are needed: have who holds another key run \"fleetctl sign %s\".\nCommit releases/.\n", res.Release, res.Release)
		return nil
	}
	p.Printf("Published release %s for %s.\n", res.Release, generationsText(res.Generations))
	changed := []string{"releases/"}
	if slices.ContainsFunc(res.Generations, func(g publisher.Generation) bool { return g.SecretsChanged > 0 }) {
		changed = append(changed, "secrets/")
	}
	if len(res.Recorded) > 0 {
		changed = append(changed, "hosts/")
	}
	p.Printf("Commit %s; follow it with \"fleetctl status\".\n", strings.Join(changed, ", "))
	return nil
}

// generationsText counts machines, and other profiles where there are any.
func generationsText(list []publisher.Generation) string {
	machines := map[fleet.MachineName]bool{}
	homes := 0
	for _, g := range list {
		machines[g.Machine] = true
		if g.Profile.User() != "" {
			homes++
		}
	}
	if homes == 0 {
		return plural(len(machines), "machine")
	}
	return plural(len(machines), "machine") + ", " + plural(homes, "home") + " on them"
}

func secretsText(g publisher.Generation) string {
	if g.Secrets == 0 {
		return "-"
	}
	if g.SecretsChanged > 0 {
		return fmt.Sprintf("%d (%d new)", g.Secrets, g.SecretsChanged)
	}
	return strconv.Itoa(g.Secrets)
}

// reporter shows a publish to people and keeps what was noteworthy.
type reporter struct {
	progress *ui.Progress
	mu       sync.Mutex // guards what follows
	warnings []string
	alarms   []string
}

// Step shows what is being done.
func (r *reporter) Step(s publisher.Step) { r.progress.Status(stepText(s)) }

func stepText(s publisher.Step) string {
	switch s {
	case publisher.StepSources:
		return "pinning sources…"
	case publisher.StepHostKeys:
		return "collecting host keys…"
	case publisher.StepInventory:
		return "handing over the inventory…"
	case publisher.StepHead:
		return "asking what was published…"
	case publisher.StepPlan:
		return "packing sources and secrets…"
	case publisher.StepSecrets, publisher.StepRecord, publisher.StepMark:
		return "writing to the repository…"
	case publisher.StepSign:
		return "signing…"
	case publisher.StepUpload:
		return "uploading…"
	case publisher.StepStage:
		return "staging…"
	case publisher.StepCommit:
		return "committing…"
	}
	return string(s)
}

// Building shows what nix says.
func (r *reporter) Building(line string) { r.progress.Status("nix: " + clipText(line)) }

// Uploaded shows how far the upload is.
func (r *reporter) Uploaded(done, total uint64) { r.progress.Bytes("uploading", done, total) }

// Warn shows and keeps a warning.
func (r *reporter) Warn(text string) {
	r.progress.Say("warning: " + text)
	r.mu.Lock()
	r.warnings = append(r.warnings, text)
	r.mu.Unlock()
}

// Alarm shows and keeps an alarm.
func (r *reporter) Alarm(text string) {
	r.progress.Say("ALARM: " + text)
	r.mu.Lock()
	r.alarms = append(r.alarms, text)
	r.mu.Unlock()
}

// progress shows progress on Stderr, where that is a terminal.
func (o *options) progress() *ui.Progress {
	return ui.NewProgress(o.Stderr, ui.IsTerminal(o.Stderr, o.Getenv), o.Now)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
