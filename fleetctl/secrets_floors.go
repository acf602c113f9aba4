package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/gitrepo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// errNothingNewer is a revocation of the only value that there is.
var errNothingNewer = errors.New("there is no newer value")

// revocation is what hosts may not have any more, with what to tell about it.
type revocation struct {
	of map[fleet.MachineName]*repo.Revoked
	// Floors and Systems are for people and in JSON.
	Floors  []floorSet  `json:"floors"`
	Systems []systemSet `json:"systems"`
}

// floorSet is a floor of one machine's secret.
type floorSet struct {
	Machine fleet.MachineName `json:"machine"`
	Name    fleet.SecretName  `json:"name"`
	// Version is the lowest that is good.
	Version uint64 `json:"version"`
	// Units restart with it, by the newest generation: those of older ones may break.
	Units []string `json:"units"`
}

// systemSet is a machine of which older systems have revoked values in themselves.
type systemSet struct {
	Machine    fleet.MachineName `json:"machine"`
	Generators []string          `json:"generators"`
	Before     time.Time         `json:"before"`
	Units      []string          `json:"units"`
}

func newRevocation() *revocation {
	return &revocation{of: map[fleet.MachineName]*repo.Revoked{}, Floors: []floorSet{}, Systems: []systemSet{}}
}

// files are those that record it, relative to the repository.
func (r *revocation) files() (list []string) {
	for m := range r.of {
		list = append(list, repo.RevokedFile(m))
	}
	slices.Sort(list)
	return list
}

func (r *revocation) raise(m fleet.MachineName, more repo.Revoked) {
	if r.of[m] == nil {
		r.of[m] = &repo.Revoked{}
	}
	r.of[m].Raise(more)
}

// published revokes versions below floor of what a machine was sent.
func (r *revocation) published(s publishedSecret, floor uint64) {
	r.raise(s.Machine, repo.Revoked{Floors: map[fleet.SecretName]uint64{s.Name: floor}})
	r.Floors = append(r.Floors, floorSet{s.Machine, s.Name, floor, append([]string{}, s.units...)})
}

// generated revokes what generators made before, wherever it is: versions that machines
// were sent, of which the next release brings new ones, and systems that have it.
func (r *revocation) generated(published []publishedSecret, made []*generate.Generator, now time.Time) {
	now = now.UTC().Truncate(time.Second) // As releases are issued.
	for _, g := range made {
		for _, m := range g.Machines {
			machine := fleet.MachineName(m)
			if g.OfFlake() {
				r.system(machine, g, now)
				continue
			}
			for _, s := range published {
				if s.Machine == machine && slices.ContainsFunc(g.Files, func(f generator.File) bool { return string(s.Name) == g.Name+"."+f.Name }) {
					r.published(s, s.Version+1)
				}
			}
		}
	}
}

func (r *revocation) system(m fleet.MachineName, g *generate.Generator, now time.Time) {
	var units []string
	deploys := false
	for _, f := range g.Files {
		deploys = deploys || f.Secret && f.Deploy
		units = append(units, f.RestartUnits...)
	}
	if !deploys {
		return
	}
	r.raise(m, repo.Revoked{Before: now})
	i := slices.IndexFunc(r.Systems, func(s systemSet) bool { return s.Machine == m })
	if i < 0 {
		i, r.Systems = len(r.Systems), append(r.Systems, systemSet{Machine: m, Before: now, Units: []string{}})
	}
	s := &r.Systems[i]
	s.Generators = append(s.Generators, g.Name)
	s.Units = append(s.Units, units...)
	slices.Sort(s.Units)
	s.Units = slices.Compact(s.Units)
}

// record writes it down, and returns the files.
func (r *revocation) record(w *workspace) (files []string, err error) {
	if len(r.of) == 0 {
		return nil, nil
	}
	unlock, err := w.Lock()
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	defer unlock()
	for _, m := range slices.Sorted(maps.Keys(r.of)) {
		if err := w.Revoke(m, *r.of[m]); err != nil {
			return nil, err //nolint:wrapcheck // It names the file.
		}
	}
	return r.files(), nil
}

// say tells what hosts will do, and what may break by it.
func (r *revocation) say(p *ui.Printer) {
	for _, f := range r.Floors {
		p.Printf("%s: versions below %d of %s are revoked with the next release%s\n", f.Machine, f.Version, f.Name,
			breaks("older generations get a newer one, or none", f.Units))
	}
	for _, s := range r.Systems {
		p.Printf("%s: systems have values of %s in themselves: with the next release nobody goes back to generations issued before %s%s\n",
			s.Machine, strings.Join(s.Generators, ", "), s.Before.Format(time.RFC3339), breaks("", s.Units))
	}
	if len(r.of) > 0 {
		p.Printf("Publish to %s to have it be so.\n", strings.Join(names(r.of), ", "))
	}
}

func breaks(what string, units []string) string {
	if what == "" {
		return ""
	}
	if len(units) > 0 {
		what += ", with which " + strings.Join(units, ", ") + " may not work"
	}
	return "; " + what
}

func names(of map[fleet.MachineName]*repo.Revoked) (list []string) {
	for m := range of {
		list = append(list, string(m))
	}
	slices.Sort(list)
	return list
}

// runRevokeValue revokes what a secret was before.
func runRevokeValue(ctx context.Context, o *options, opts *varsOptions, name string) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	r, err := v.older(name, o.Now())
	if err != nil {
		return err
	}
	var git *gitrepo.Repository
	if !opts.NoCommit {
		if git, err = gitrepo.Find(ctx, v.Dir()); err == nil && git != nil {
			err = git.Ready(ctx, r.files()...)
		}
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
	}
	files, err := r.record(v.workspace)
	if err != nil {
		return err
	}
	done := written{Changed: append([]string{}, files...)}
	if git != nil {
		if err := git.Commit(context.WithoutCancel(ctx), "secrets: revoke "+name, files); err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		done.Committed = true
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Name string `json:"name"`
			*revocation
			written
		}{name, r, done})
	}
	r.say(p)
	done.say(o, opts)
	return nil
}

// older is the revocation of what a secret was before its newest value, on all machines
// that have it.
func (v *values) older(text string, now time.Time) (*revocation, error) {
	all, err := v.published()
	if err != nil {
		return nil, err
	}
	r := newRevocation()
	known := false
	name := fleet.SecretName(strings.Replace(text, "/", ".", 1))
	for _, s := range all {
		if s.Name != name {
			continue
		}
		known = true
		floor, err := v.newest(s)
		if err != nil {
			return nil, err
		}
		if floor > 1 {
			r.published(s, floor)
		}
	}
	of, file := path.Split(text)
	for _, g := range v.set.All() {
		if _, makes := g.File(file); makes && g.OfFlake() && g.Name == path.Clean(of) {
			known = true
			r.generated(nil, []*generate.Generator{g}, now)
		}
	}
	switch {
	case !known:
		return nil, ui.WithHint(fmt.Errorf("no machine was sent a secret %s, and no generator of the flake makes it", text), "fleetctl secrets list has the names")
	case len(r.of) == 0:
		return nil, ui.WithHint(fmt.Errorf("%s has had one value: %w", text, errNothingNewer),
			"make a new one (fleetctl vars rotate, or its file anew); one of settings in fleet.yaml has to be published too")
	}
	return r, nil
}

// newest is the version of the newest value of what a machine was sent: where its tree has
// another one by now, that which the next release gives it.
func (v *values) newest(s publishedSecret) (uint64, error) {
	for _, g := range v.set.Of(string(s.Machine)) {
		for _, f := range g.Files {
			if !f.Secret || string(s.Name) != g.Name+"."+f.Name {
				continue
			}
			t, err := v.tree()
			if err != nil {
				return 0, err
			}
			doc, err := t.Document(g.ID(f.Name).Path())
			if err != nil {
				return 0, fmt.Errorf("reading %s: %w", g.ID(f.Name).Path(), err)
			}
			if fleet.DigestOf(doc.Bytes()) != s.Digest {
				return s.Version + 1, nil
			}
		}
	}
	return s.Version, nil
}
