// Package publisher makes releases: it pins sources and secrets, signs one
// generation per machine and profile, and hands them to the coordinator so
// that hosts see all of them or none.
//
// The order of effects makes a publish safe to interrupt anywhere and to run
// again: ciphertexts and the signed release are written to the repository
// before the coordinator hears of them, so that no version and no number is
// ever used twice, and only the last call, Commit, shows anything to hosts.
package publisher

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Sentinels that errors of this package wrap.
var (
	// ErrAlarm is evidence of a lie or of a stolen key: nothing is published.
	ErrAlarm = errors.New("alarm")
	// ErrNoHostKey is a machine with secrets whose age recipient isn't known.
	ErrNoHostKey = errors.New("no age recipient is known")
	// ErrNeverPublished is a refresh of what was never published.
	ErrNeverPublished = errors.New("nothing was published for it yet")
	// ErrClock is a wall clock that is behind what was signed already.
	ErrClock = errors.New("this machine's clock is behind")
	// ErrClockAhead is a wall clock that is far ahead of the coordinator's.
	ErrClockAhead = errors.New("this machine's clock is ahead of the coordinator's")
	// ErrNoBuilder is a trust root without keys for closure manifests.
	ErrNoBuilder = errors.New("the trust root has no builder role, which signs closures")
	// ErrBuildUnevaluated is a flake that is to be built and not evaluated.
	ErrBuildUnevaluated = errors.New("it cannot be built without being evaluated")
	// ErrRootBehind is a repository whose trust root is not the newest one.
	ErrRootBehind = errors.New("this repository's trust root is behind")
	// ErrRevoked is a value that was revoked, and is published all the same.
	ErrRevoked = errors.New("it was revoked")
	// ErrSourceGone is a refresh of a blob that neither the coordinator nor the
	// repository has any longer.
	ErrSourceGone = errors.New("the source is no longer here")
)

// Coordinator is what the publisher needs of the coordinator; *client.Client
// is one.
type Coordinator interface {
	ApplyInventory(ctx context.Context, inv client.Inventory) (bool, error)
	HostKeys(ctx context.Context) ([]client.HostKeys, error)
	Head(ctx context.Context) (client.Head, error)
	Releases(ctx context.Context, limit uint32) ([]client.Release, error)
	Has(ctx context.Context, ref fleet.BlobRef) (bool, error)
	Upload(ctx context.Context, ref fleet.BlobRef, src io.ReaderAt, progress func(done uint64)) error
	Stage(ctx context.Context, id fleet.ReleaseID, gens []client.Envelopes) error
	Commit(ctx context.Context, id, expected fleet.ReleaseID, count int, revision string) error
	Loosen(ctx context.Context, envelope []byte) error
	Propose(ctx context.Context, p client.Proposal) error
	Proposal(ctx context.Context, id fleet.ReleaseID) (client.Proposal, []byte, error)
	AddTrustRoots(ctx context.Context, roots [][]byte) (version uint64, err error)
}

// Step is a part of publishing.
type Step string

// The steps, in order.
const (
	StepSources   Step = "sources"
	StepHostKeys  Step = "host-keys"
	StepInventory Step = "inventory"
	StepHead      Step = "head"
	StepPlan      Step = "plan"
	StepSecrets   Step = "secrets"
	StepSign      Step = "sign"
	StepRecord    Step = "record"
	StepUpload    Step = "upload"
	StepStage     Step = "stage"
	StepCommit    Step = "commit"
	StepMark      Step = "mark"
)

// Steps lists all steps in order.
func Steps() []Step {
	return []Step{
		StepSources, StepHostKeys, StepInventory, StepHead, StepPlan, StepSecrets,
		StepSign, StepRecord, StepUpload, StepStage, StepCommit, StepMark,
	}
}

// Reporter is told how a publish goes. Its methods may be called from several
// goroutines.
type Reporter interface {
	// Step is called when a step begins.
	Step(s Step)
	// Uploaded says how many of total bytes are at the coordinator.
	Uploaded(done, total uint64)
	// Building is told each line that nix prints meanwhile.
	Building(line string)
	// Warn is for people.
	Warn(text string)
	// Alarm is evidence of a lie: somebody has to look.
	Alarm(text string)
}

// Publisher makes releases of one fleet.
type Publisher struct {
	Repo        *repo.Repository
	Keys        *keyring.Keyring
	Coordinator Coordinator
	// Nix is asked where a source needs it.
	Nix      *flakes.Nix
	Fleet    fleet.FleetID
	Operator string
	Now      func() time.Time
	Reporter Reporter
}

// Target is what one profile of one machine should get.
type Target struct {
	Machine fleet.MachineName
	Profile fleet.ProfileName
	Source  inventory.Source
	// Plugins that the source and the probes name.
	Plugins []inventory.Plugin
	Probes  []fleet.Probe
	Policy  fleet.Policy
	// Reach is who can tell what is out of reach; nil for nobody.
	Reach *fleet.Reach
	// Expiry of the generation; 0 means fleet.DefaultExpiry.
	Expiry  time.Duration
	Secrets []Secret
	// Age is the machine's recipient where the fleet file or sops names it;
	// else that of hosts/<machine>.json is taken.
	Age string
}

// name is what people call it.
func (t Target) name() string {
	if t.Profile == fleet.System || t.Profile == "" {
		return string(t.Machine)
	}
	return string(t.Machine) + ", " + string(t.Profile)
}

// Secret is one secret of a target.
type Secret struct {
	Name fleet.SecretName
	// File is an age file that the operator can open.
	File string
	// Document is what the machine gets in place of it: one of sops, for the machine's
	// own key among others, that nobody has to open.
	Document *sops.Document
	// Path is relative to the host's secrets directory.
	Path string
	// Also are other paths that lead there.
	Also         []string
	Owner, Group string
	Mode         uint32
	NeededFor    fleet.NeededFor
	// RestartUnits are restarted on the host once its content changes.
	RestartUnits []string
}

// Request says what to publish.
type Request struct {
	Targets   []Target
	Inventory client.Inventory
	// Refresh signs again what was published last, with a new expiry.
	Refresh bool
	// Build builds all flakes and pins their closures, as source.build does.
	Build bool
	// NoEval leaves it to the hosts to evaluate flakes: their generations are
	// unpinned.
	NoEval bool
	// DryRun changes nothing, neither here nor at the coordinator, save that the
	// store gets what evaluations leave there.
	DryRun bool
	// Revision tells that of the repository, for people. It is asked while nix works,
	// before anything is written there.
	Revision func() string
}

// Result is what was, or with DryRun would be, published.
type Result struct {
	Release fleet.ReleaseID
	// Revision of the repository, as Request.Revision told.
	Revision string
	// Expected is the head that it follows.
	Expected    fleet.ReleaseID
	Generations []Generation
	// Recorded are the machines whose keys were recorded on the way.
	Recorded []fleet.MachineName
	// Waiting says that more signatures are needed: hosts see nothing of it yet.
	Waiting bool
}

// Generation is one generation of a result.
type Generation struct {
	Machine fleet.MachineName
	Profile fleet.ProfileName
	Number  fleet.Number
	// Digest of the signed document; empty in a dry run.
	Digest  fleet.Digest
	Source  fleet.Source
	Expires time.Time
	// SecretsChanged counts secrets with a new version.
	Secrets, SecretsChanged int
	// Same says that source and secrets are those of the generation before.
	Same bool
	// Unbuilt says that publishing builds the source and pins its closure, which
	// this dry run left out.
	Unbuilt bool
}

// Publish makes a release. On client.ErrConflict it is enough to call it
// again; so it is after any interruption.
func (p *Publisher) Publish(ctx context.Context, req Request) (*Result, error) {
	if !req.DryRun {
		unlock, err := p.Repo.Lock()
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	trust, _, err := p.Repo.Trust()
	if err != nil {
		return nil, err
	}
	if err := p.checkClock(trust); err != nil {
		return nil, err
	}
	releases, endReading := p.read(ctx)
	defer endReading()
	hostKeys, endAsking := ahead(ctx, p.Coordinator.HostKeys)
	defer endAsking()
	// First of all: what follows may write to the repository, and it may itself
	// be the flake.
	p.Reporter.Step(StepSources)
	defer p.Nix.Ended() //nolint:errcheck // Where it matters it is asked below.
	pins, revision, err := p.pinSources(ctx, trust, req)
	if err != nil {
		return nil, err
	}
	res := &Result{Revision: revision}
	p.Reporter.Step(StepHostKeys)
	keys, err := hostKeys()
	if err != nil {
		return nil, err
	}
	if res.Recorded, err = p.recordHostKeys(keys, !req.DryRun); err != nil {
		return nil, err
	}
	p.Reporter.Step(StepInventory)
	applied := make(chan error, 1)
	go func() {
		var err error
		if !req.DryRun {
			_, err = p.Coordinator.ApplyInventory(ctx, req.Inventory)
		}
		applied <- err
	}()
	p.Reporter.Step(StepHead)
	hist, err := p.look(ctx, trust, releases, !req.DryRun)
	if aerr := <-applied; aerr != nil && !errors.Is(err, ErrAlarm) {
		return nil, aerr
	}
	if err != nil {
		return nil, err
	}
	if !req.DryRun {
		if err := p.handOverRoots(ctx, trust, hist.rootVersion); err != nil {
			return nil, err
		}
	}
	p.Reporter.Step(StepPlan)
	pl, err := p.plan(ctx, trust, hist, pins, req)
	if err != nil {
		return nil, err
	}
	if err := p.Nix.Ended(); err != nil {
		return nil, err
	}
	res.Release, res.Expected = pl.id, hist.head
	if !req.DryRun {
		if res.Waiting, err = p.carryOut(ctx, trust, hist, pl, revision); err != nil {
			return nil, err
		}
	}
	for i := range pl.items {
		res.Generations = append(res.Generations, pl.items[i].result())
	}
	return res, nil
}
