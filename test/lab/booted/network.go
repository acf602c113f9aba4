//go:build linux

package booted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

const (
	switchSpace = prefix + "switch"
	bridge      = "br0"
	// network of the lab: a unique local one, in namespaces only.
	network = "fd00:f1ee:7::"
)

func ip(ctx context.Context, space string, args string) error {
	return run(ctx, append([]string{"ip", "-n", space}, strings.Fields(args)...)...)
}

// makeSwitch makes the namespace with the bridge that hosts are connected to.
func (l *Lab) makeSwitch(ctx context.Context) error {
	if err := run(ctx, "ip", "netns", "add", switchSpace); err != nil {
		return err
	}
	for _, args := range []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"link set " + bridge + " up",
		"address add " + network + "1/64 dev " + bridge + " nodad",
	} {
		if err := ip(ctx, switchSpace, args); err != nil {
			return err
		}
	}
	return nil
}

// connect makes a host's namespace and its cable to the switch.
func (h *Host) connect(ctx context.Context) error {
	space, port := prefix+h.Name, "p-"+h.Name
	if err := run(ctx, "ip", "netns", "add", space); err != nil {
		return err
	}
	if err := ip(ctx, switchSpace, fmt.Sprintf("link add %s type veth peer name host0 netns %s", port, space)); err != nil {
		return err
	}
	if err := ip(ctx, switchSpace, fmt.Sprintf("link set %s master %s up", port, bridge)); err != nil {
		return err
	}
	for _, args := range []string{
		"link set lo up", "link set host0 up", "address add " + h.Address + "/64 dev host0 nodad",
	} {
		if err := ip(ctx, space, args); err != nil {
			return err
		}
	}
	return nil
}

// Unplug cuts the host off from the network, or lets it back.
func (h *Host) Unplug(ctx context.Context, off bool) error {
	state := "up"
	if off {
		state = "down"
	}
	return ip(ctx, switchSpace, "link set p-"+h.Name+" "+state)
}

// removeNetworks removes the lab's namespaces, and with them what is in them.
func removeNetworks(ctx context.Context) error {
	entries, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			err = errors.Join(err, run(ctx, "ip", "netns", "delete", e.Name()))
		}
	}
	return err
}
