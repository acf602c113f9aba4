//go:build !linux

package contain

import (
	"context"
	"errors"
	"os/exec"
	"time"
)

// UnitPrefix begins the name of each unit, where there are any.
const UnitPrefix = "fleet-user-"

// Without is why what runs as another user has no unit of its own.
func Without() string { return "this system has no systemd" }

// Unit is of hosts with systemd.
type Unit struct{}

func startIn(context.Context, *exec.Cmd, uint32, string, time.Duration) (*Unit, error) {
	return nil, errors.ErrUnsupported
}

// Kill ends nothing.
func (u *Unit) Kill(time.Duration) bool { return true }

// EndNamed ends nothing.
func EndNamed(string, time.Duration) int { return 0 }
