package sandbox

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// memory makes a RAM disk.
func memory(ctx context.Context) (string, func() error, error) { return ramDisk(ctx, runProgram) }

// runProgram runs a program and returns the beginning of what it printed.
func runProgram(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return strings.TrimSpace(string(out[:min(len(out), maxPrinted)])), nil
}
