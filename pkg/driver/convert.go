package driver

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

// Limits on what drivers say to people.
const (
	maxProgressBytes = 1 << 10
	maxErrorBytes    = 8 << 10
	maxLineBytes     = 1 << 10
	// MaxDiffLines bounds a diff; further lines are counted, not shown.
	MaxDiffLines = 1000
)

func activationToProto(a Activation) *driverv1.ActivationResponse {
	return &driverv1.ActivationResponse{
		Activate: actionToProto(a.Activate),
		Commit:   actionToProto(a.Commit),
		Rollback: actionToProto(a.Rollback),
	}
}

func actionToProto(a Action) *driverv1.Action {
	p := &driverv1.Action{}
	if a.Deadline != 0 {
		p.Deadline = durationpb.New(a.Deadline)
	}
	for _, s := range a.Steps {
		step := &driverv1.Step{}
		switch {
		case s.Exec != nil:
			codes := make([]int32, 0, len(s.Exec.OKCodes))
			for _, c := range s.Exec.OKCodes {
				codes = append(codes, int32(c)) //nolint:gosec // The other side checks for 0 to 255.
			}
			step.Effect = &driverv1.Step_Exec{Exec: &driverv1.Exec{
				Argv: s.Exec.Argv, Env: s.Exec.Env, User: s.Exec.User, Dir: s.Exec.Dir, OkCodes: codes,
			}}
		case s.Link != nil:
			step.Effect = &driverv1.Step_Link{Link: &driverv1.Link{Path: s.Link.Path, Target: s.Link.Target}}
		}
		p.Steps = append(p.Steps, step)
	}
	return p
}

func activationFromProto(p *driverv1.ActivationResponse) (Activation, error) {
	a := Activation{
		Activate: actionFromProto(p.GetActivate()),
		Commit:   actionFromProto(p.GetCommit()),
		Rollback: actionFromProto(p.GetRollback()),
	}
	if err := a.Validate(); err != nil {
		return Activation{}, err
	}
	return a, nil
}

func actionFromProto(p *driverv1.Action) Action {
	a := Action{Deadline: p.GetDeadline().AsDuration()}
	for _, s := range p.GetSteps() {
		var step Step
		switch e := s.GetEffect().(type) {
		case *driverv1.Step_Exec:
			x := &Exec{Argv: e.Exec.GetArgv(), Env: e.Exec.GetEnv(), User: e.Exec.GetUser(), Dir: e.Exec.GetDir()}
			for _, c := range e.Exec.GetOkCodes() {
				x.OKCodes = append(x.OKCodes, int(c))
			}
			step.Exec = x
		case *driverv1.Step_Link:
			step.Link = &Link{Path: e.Link.GetPath(), Target: e.Link.GetTarget()}
		}
		a.Steps = append(a.Steps, step)
	}
	return a
}

func boundLines(lines []string) []string {
	// One line more is the count that the other side has put there.
	if n := len(lines); n > MaxDiffLines+1 {
		lines = append(lines[:MaxDiffLines:MaxDiffLines], fmt.Sprintf("… and %d more", n-MaxDiffLines))
	}
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, clip(l, maxLineBytes))
	}
	return out
}

// clip bounds s and makes it valid for a message on the wire.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
