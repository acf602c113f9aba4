//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// compile has go make a program of this repository that users don't get: command
// is "build" or "test -c" with its flags. Hosts find it among the programs.
func (w *world) compile(ctx context.Context, name, pkg string, command ...string) error {
	args := append(command, "-o", filepath.Join(w.lab.Dir(), "bin", name), pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
	// Hosts have another C library than this machine.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
