package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// daemonSocket is where Nix's daemon listens.
const daemonSocket = "/nix/var/nix/daemon-socket/socket"

// What the two ends of that say first (worker-protocol.hh of Nix).
const (
	helloDaemon  = 0x6e697863
	daemonsHello = 0x6478696f
)

func (h Host) nix(context.Context) Finding {
	if h.Nix() {
		return ok("nix", "there is a nix in the agent's PATH")
	}
	return warning("nix", "there is no nix in the agent's PATH: only bundles can be activated here", "install Nix, or give --path to fleet-agent install")
}

// nixDaemon is whether it answers. On Linux root needs none.
func (h Host) nixDaemon(ctx context.Context) Finding {
	const name = "nix daemon"
	conn, err := h.Dial(ctx, "unix", h.at(daemonSocket))
	if err != nil {
		switch absent := errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED); {
		case absent && !h.Nix():
			return ok(name, "there is none, and no nix")
		case absent && !h.Mac:
			return ok(name, "there is none, and root needs none (home profiles do)")
		case errors.Is(err, os.ErrPermission):
			return unknown(name, err.Error(), useSudo)
		}
		return missing(name, err.Error(), "start it: launchctl kickstart system/org.nixos.nix-daemon, or systemctl start nix-daemon.socket")
	}
	defer func() { _ = conn.Close() }()
	due, _ := ctx.Deadline()
	said := make([]byte, 8)
	err = conn.SetDeadline(due)
	if err == nil {
		_, err = conn.Write(binary.LittleEndian.AppendUint64(nil, helloDaemon))
	}
	if err == nil {
		_, err = io.ReadFull(conn, said)
	}
	if err == nil && !bytes.Equal(said, binary.LittleEndian.AppendUint64(nil, daemonsHello)) {
		err = fmt.Errorf("what answers says %x, and is no Nix daemon", said)
	}
	if err != nil {
		return missing(name, "it takes connections, and does not answer: "+err.Error(), "look at its log, and start it anew")
	}
	return ok(name, "it answers")
}

// identity is who the host is to its fleet, for how long, and what it trusts.
func (h Host) identity(context.Context) Finding {
	const name = "identity"
	b, err := h.Binding()
	var expires time.Time
	if err == nil {
		expires, err = h.Expiry()
	}
	switch {
	case errors.Is(err, identity.ErrNotEnrolled):
		return missing(name, "not enrolled yet", "fleetctl token MACHINE | ssh root@HOST fleet-agent install --join-file -")
	case errors.Is(err, os.ErrPermission):
		return unknown(name, err.Error(), useSudo)
	case err != nil:
		return missing(name, err.Error(), "enrol it anew: fleetctl token MACHINE | ssh root@HOST fleet-agent install --join-file -")
	}
	who := fmt.Sprintf("%s of fleet %s, by the CA %s and the trust root %s", b.Machine, b.Fleet, short(b.CA), short(b.Root))
	switch left := expires.Sub(h.Now()); {
	case left <= 0:
		return missing(name, who+", and expired "+ui.Ago(h.Now(), expires), "the agent renews it once it reaches the coordinator; if that refuses, make a token for this host (fleetctl token)")
	default:
		return ok(name, who+", for another "+ui.Span(left))
	}
}

// short is the beginning of a digest, enough to compare by eye.
func short(d fleet.Digest) string {
	s := string(d)
	return s[:min(len(s), len("sha256:")+12)]
}

// coordinator is whether it is reached: by the agent, or else at least its port.
func (h Host) coordinator(ctx context.Context) Finding {
	const name = "coordinator"
	st, err := h.Ask(ctx)
	if err == nil && st.Machine != "" {
		if c := st.Coordinator; c.Code != "" {
			return missing(name, string(c.Code)+": "+c.Message, fallback(c.Hint, "look whether this host's network leads to it"))
		}
		return ok(name, "the agent reaches it, and heard of it "+ui.Ago(h.Now(), st.CoordinatorSeen))
	}
	b, err := h.Binding()
	switch {
	case errors.Is(err, identity.ErrNotEnrolled), err == nil && len(b.Addresses) == 0:
		return unknown(name, "this host knows of none yet", "enrol it")
	case errors.Is(err, os.ErrPermission):
		return unknown(name, err.Error(), useSudo)
	case err != nil:
		return unknown(name, "where it is can't be read: "+err.Error(), "see identity")
	}
	var failed []string
	for _, address := range b.Addresses {
		conn, err := h.Dial(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
			return ok(name, address+" takes connections; whether it is the coordinator the agent finds out")
		}
		failed = append(failed, err.Error())
	}
	return missing(name, strings.Join(failed, "; "), "look whether this host's network leads to it, and at its firewall")
}

func (h Host) clock(context.Context) Finding {
	const name = "clock"
	if b, err := h.Binding(); err == nil && h.Now().Before(b.Issued) {
		return missing(name, "it says "+h.Now().UTC().Format(time.RFC3339)+", before this host was enrolled", "set it, and have something keep it right")
	}
	if h.Synced() {
		return ok(name, "something keeps it right")
	}
	return warning(name, "nothing says that it is right (adjtimex)", "have systemd-timesyncd or chrony (with rtcsync) keep it right: documents from the future are refused only after the trust root's end otherwise")
}

const (
	// stateRoom is what the journal, bundles and downloads want at the least, and
	// storeRoom what a system's closure may; a warning each.
	stateRoom = 256 << 20
	storeRoom = 2 << 30
)

func (h Host) stateRoom(context.Context) Finding {
	return h.roomAt("room for state", h.StateDir, stateRoom)
}

func (h Host) storeRoom(context.Context) Finding {
	return h.roomAt("room in the store", nixStore, storeRoom)
}

func (h Host) roomAt(name, dir string, wanted uint64) Finding {
	var st unix.Statfs_t
	err := unix.Statfs(h.at(dir), &st)
	for parent := dir; errors.Is(err, unix.ENOENT) && parent != "/"; {
		// What is to be made there is made where its parent is.
		parent = filepath.Dir(parent)
		err = unix.Statfs(h.at(parent), &st)
	}
	if err != nil {
		return noRoom(name, dir, err)
	}
	free := uint64(st.Bavail) * uint64(st.Bsize) //nolint:gosec,unconvert // Neither is negative; their types differ between systems.
	said := ui.Size(free) + " free at " + dir
	collect := ""
	if h.Nix() {
		collect = ": nix-collect-garbage -d keeps what fleet needs"
	}
	switch {
	case free < wanted/8:
		return missing(name, said, "make room: an activation that runs out of it goes back, and the way back needs some too")
	case free < wanted:
		return warning(name, said, "make room, "+ui.Size(wanted)+" say"+collect)
	case st.Files > 0 && st.Ffree < st.Files/100:
		return warning(name, said+", and fewer than one in a hundred of its inodes", "make room")
	}
	return ok(name, said)
}

// noRoom is what a look at a disk says that failed.
func noRoom(name, dir string, err error) Finding {
	hint := ""
	if errors.Is(err, os.ErrPermission) {
		hint = useSudo
	}
	return unknown(name, fmt.Sprintf("%s: %v", dir, err), hint)
}
