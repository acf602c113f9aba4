// Package control is the agent's local socket and its client: what a person at
// the machine can see and do with the coordinator gone. Only root and the
// agent's own user get through. A second socket (PersonServer) is for the person at the
// console, who may see and postpone.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// socketName of the socket in the run directory.
const socketName = "agent.sock"

// SocketPath is where the socket of an agent with that run directory is.
func SocketPath(runDir string) string { return filepath.Join(runDir, socketName) }

// Errors of the control socket.
var (
	// ErrNoAgent says that no agent answers.
	ErrNoAgent = errors.New("no agent runs here")
	// ErrInUse says that another agent serves the socket.
	ErrInUse = errors.New("another agent serves this run directory")
	// ErrNotPossible is wrapped by answers to what can't be done now. They say
	// why, and what to do instead.
	ErrNotPossible = errors.New("not possible now")
	// ErrNothingRefused is wrapped by the answer to a retry where nothing failed,
	// was refused, or waits.
	ErrNothingRefused = errors.New("nothing is refused here")
)

// NotPossible is ErrNotPossible, saying why and what to do instead.
func NotPossible(hint, format string, args ...any) error {
	return ui.WithHint(fmt.Errorf("%w: "+format, append([]any{ErrNotPossible}, args...)...), hint)
}

// Status is where a host is and why.
type Status struct {
	Machine fleet.MachineName
	Mode    fleet.Mode
	// Paused is why activations are paused; empty when they are not.
	Paused string
	// Coordinator says why it can't be reached; its code is empty when it can.
	Coordinator fleet.Reason
	// CoordinatorSeen is when it last answered; zero for never.
	CoordinatorSeen time.Time
	Profiles        []Profile
	// Outbox counts transitions that the coordinator hasn't acknowledged.
	Outbox uint64
	// IdentityExpires is when the host identity ends; zero when not enrolled.
	IdentityExpires time.Time
	AgentVersion    string
}

// Profile is where a profile is and why.
type Profile struct {
	fleet.ProfileStatus
	// Desired is what the coordinator desires; zero for nothing.
	Desired fleet.Ref
}

// RolledBack is what a rollback set going.
type RolledBack struct {
	// Target is where it leads; zero for what was there before the fleet.
	Target fleet.Ref
	// Already says that the profile was sent back before.
	Already bool
}

// Retried is what a retry set going.
type Retried struct {
	// Target is tried again.
	Target fleet.Ref
	// Waited is why it would have been tried later only; its code is empty where
	// it was not to be tried any more.
	Waited fleet.Reason
}

// Host is the agent as the socket serves it. Methods MUST be safe for
// concurrent use. actor is who asked, for the record.
type Host interface {
	Status(ctx context.Context) (Status, error)
	// Pause keeps activations from starting until Resume, across restarts.
	Pause(ctx context.Context, reason, actor string) error
	Resume(ctx context.Context, actor string) error
	// RollBack returns a profile to its last-good, refuses what runs, and
	// returns where to, when that has begun. Unless leaving is zero, it begins
	// only where that generation runs.
	RollBack(ctx context.Context, profile fleet.ProfileName, leaving fleet.Number, actor string) (RolledBack, error)
	// Retry forgets that the desired generation failed or was refused, and ends
	// its wait; where there is neither, it returns ErrNothingRefused.
	Retry(ctx context.Context, profile fleet.ProfileName, actor string) (Retried, error)
	// Boot lets the generation be booted, and so the host, that waits for that, and
	// returns it.
	Boot(ctx context.Context, profile fleet.ProfileName, actor string) (fleet.Ref, error)
	// Apply takes a signed generation from a file (pkg/carry) and says what the
	// host works towards now.
	Apply(file io.Reader, actor string) (fleet.ProfileName, fleet.Ref, error)
	// ResetTrust has the host start from another trust root, which must have the
	// digest pin, and returns its version.
	ResetTrust(root []byte, pin fleet.Digest, actor string) (version uint64, err error)
	// Logs returns the output of a profile's newest activation.
	Logs(ctx context.Context, profile fleet.ProfileName) (io.ReadCloser, error)
}
