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
			step.Effect = &driverv1.Step_Exec{Exec: execToProto(s.Exec)}
		case s.Link != nil:
			step.Effect = &driverv1.Step_Link{Link: linkToProto(s.Link)}
		case s.Sync != nil:
			step.Effect = &driverv1.Step_Sync{Sync: &driverv1.Sync{Paths: s.Sync.Paths}}
		}
		p.Steps = append(p.Steps, step)
	}
	return p
}

func execToProto(e *Exec) *driverv1.Exec {
	p := &driverv1.Exec{
		Argv: e.Argv, Env: e.Env, User: e.User, Dir: e.Dir, Unless: linkToProto(e.Unless), Contained: e.Contained,
		OkCodes: codesToProto(e.OKCodes), BusyCodes: codesToProto(e.BusyCodes),
		FailedUnitsCode: codeToProto(e.FailedUnitsCode),
	}
	for _, part := range e.Parts {
		p.Parts = append(p.Parts, &driverv1.Part{Name: part.Name, Heading: part.Heading, Ends: part.Ends, Rest: part.Rest})
	}
	for c, text := range e.Meanings {
		if p.Meanings == nil {
			p.Meanings = make(map[int32]string, len(e.Meanings))
		}
		p.Meanings[codeToProto(c)] = text
	}
	return p
}

func codesToProto(codes []int) []int32 {
	var p []int32
	for _, c := range codes {
		p = append(p, codeToProto(c))
	}
	return p
}

func codeToProto(c int) int32 {
	return int32(c) //nolint:gosec // The other side checks for 0 to 255.
}

func linkToProto(l *Link) *driverv1.Link {
	if l == nil {
		return nil
	}
	return &driverv1.Link{Path: l.Path, Target: l.Target}
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
			step.Exec = execFromProto(e.Exec)
		case *driverv1.Step_Link:
			step.Link = linkFromProto(e.Link)
		case *driverv1.Step_Sync:
			step.Sync = &Sync{Paths: e.Sync.GetPaths()}
		}
		a.Steps = append(a.Steps, step)
	}
	return a
}

func execFromProto(p *driverv1.Exec) *Exec {
	e := &Exec{
		Argv: p.GetArgv(), Env: p.GetEnv(), User: p.GetUser(), Dir: p.GetDir(), Contained: p.GetContained(),
		OKCodes: codesFromProto(p.GetOkCodes()), BusyCodes: codesFromProto(p.GetBusyCodes()),
		FailedUnitsCode: int(p.GetFailedUnitsCode()),
	}
	if p.GetUnless() != nil {
		e.Unless = linkFromProto(p.GetUnless())
	}
	for _, part := range p.GetParts() {
		e.Parts = append(e.Parts, Part{Name: part.GetName(), Heading: part.GetHeading(), Ends: part.GetEnds(), Rest: part.GetRest()})
	}
	for c, text := range p.GetMeanings() {
		if e.Meanings == nil {
			e.Meanings = make(map[int]string, len(p.GetMeanings()))
		}
		e.Meanings[int(c)] = text
	}
	return e
}

func codesFromProto(p []int32) []int {
	var codes []int
	for _, c := range p {
		codes = append(codes, int(c))
	}
	return codes
}

func linkFromProto(p *driverv1.Link) *Link {
	return &Link{Path: p.GetPath(), Target: p.GetTarget()}
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
