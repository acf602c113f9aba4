package fleet

import "fmt"

// Class is the kind of a machine.
type Class string

// The classes.
const (
	ClassNixOS  Class = "nixos"
	ClassDarwin Class = "darwin"
	ClassLinux  Class = "linux"
)

// ParseClass checks a class.
func ParseClass(s string) (Class, error) {
	switch c := Class(s); c {
	case ClassNixOS, ClassDarwin, ClassLinux:
		return c, nil
	}
	return "", fmt.Errorf("%w: class %q: use nixos, darwin or linux", ErrName, clip(s))
}

// Mode says what an agent may do.
type Mode string

// The modes.
const (
	// ModeObserve reports, adopts what runs as generation 0, activates nothing.
	ModeObserve Mode = "observe"
	// ModeManage carries out what is desired.
	ModeManage Mode = "manage"
)

// ParseMode checks a mode.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeObserve, ModeManage:
		return m, nil
	}
	return "", fmt.Errorf("%w: mode %q: use observe or manage", ErrName, clip(s))
}

// State is where a profile is.
type State string

// The states of a profile.
const (
	StateIdle        State = "idle"
	StateFetching    State = "fetching"
	StateBuilding    State = "building"
	StateStaged      State = "staged"
	StateActivating  State = "activating"
	StateVerifying   State = "verifying"
	StateVerified    State = "verified"
	StateConfirmed   State = "confirmed"
	StateRollingBack State = "rolling-back"
	StateRolledBack  State = "rolled-back"
	StateHeld        State = "held"
	StateFailed      State = "failed"
)

// Verdict is what a probe says.
type Verdict string

// The verdicts.
const (
	VerdictPass         Verdict = "pass"
	VerdictFail         Verdict = "fail"
	VerdictInconclusive Verdict = "inconclusive"
)

// Role is what an operator may do at the coordinator. Admin includes all; deployer,
// approver and secrets-admin each include viewer, and stand beside each other. No
// method needs approver or secrets-admin yet.
type Role string

// The roles of operators.
const (
	RoleViewer       Role = "viewer"
	RoleDeployer     Role = "deployer"
	RoleApprover     Role = "approver"
	RoleSecretsAdmin Role = "secrets-admin"
	RoleAdmin        Role = "admin"
)

// ParseRole checks a role.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleViewer, RoleDeployer, RoleApprover, RoleSecretsAdmin, RoleAdmin:
		return r, nil
	}
	return "", fmt.Errorf("%w: role %q: use viewer, deployer, approver, secrets-admin or admin", ErrName, clip(s))
}

// Includes says whether who has r may do what needs need.
func (r Role) Includes(need Role) bool {
	if r == need || r == RoleAdmin {
		return true
	}
	switch r {
	case RoleDeployer, RoleApprover, RoleSecretsAdmin:
		return need == RoleViewer
	case RoleViewer, RoleAdmin:
	}
	return false
}
