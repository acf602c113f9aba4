package nixdriver

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// account is a user of the host that a home profile is for.
type account struct {
	name string
	uid  uint32
	// home is the user's directory, absolute.
	home string
	// runtime is the directory of the user's session, as a look at the home found it;
	// empty where there is none.
	runtime string
}

// errHindered wraps what of the host keeps a profile from being activated, where a
// caller of the driver comes to it.
var errHindered = errors.New("this host is not fit for the profile")

// unfit is a Reason as an error.
type unfit struct{ reason fleet.Reason }

func (u *unfit) Error() string { return errHindered.Error() + ": " + u.reason.Message }
func (u *unfit) Unwrap() error { return errHindered }

func hinders(code fleet.ReasonCode, hint, format string, args ...any) error {
	return &unfit{fleet.Reason{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}}
}

// goesOn ends hints about the host.
const goesOn = "; the profile goes on by itself then"

// account finds a profile's user, and that home-manager is not part of the system.
// Errors that wrap errHindered are of the host; the home itself is not looked at.
func (d *Home) account(profile fleet.ProfileName) (account, error) {
	name := profile.User()
	if name == "" {
		return account{}, fmt.Errorf("driver %s has profiles home/<user> only, not %s", d.name, profile)
	}
	u, err := d.config.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
		return account{}, hinders(fleet.ReasonNoUser, "make the user on the host, or leave the profile out of fleet.yaml"+goesOn,
			"this host has no user %s", name)
	}
	if err != nil {
		return account{}, fmt.Errorf("looking up user %s: %w", name, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("looking up user %s: number %.20q: %w", name, u.Uid, err)
	}
	a := account{name: name, uid: uint32(uid), home: u.HomeDir}
	if !filepath.IsAbs(a.home) || filepath.Clean(a.home) != a.home || a.home == "/" {
		return account{}, hinders(fleet.ReasonHomeUnusable, "give the user a home directory"+goesOn, "user %s has the home directory %.200q", name, a.home)
	}
	if by := d.managedBy(name); by != "" {
		return account{}, hinders(fleet.ReasonHomeInSystem,
			"leave the profile out of fleet.yaml: the home comes with the system; or take the user out of the system's home-manager"+goesOn,
			"home-manager is part of this host's system, which activates the home of %s itself (%s)", name, by)
	}
	return a, nil
}

// owned says whether a directory, and no link to one, is a user's. What is above it
// is root's.
func (b *base) owned(dir string, uid uint32) bool {
	fi, err := os.Lstat(b.at(dir))
	return err == nil && fi.IsDir() && ownerOf(fi) == uid
}

func ownerOf(fi os.FileInfo) uint32 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}

// maxActivateBytes bounds what is read of a system's activation script.
const maxActivateBytes = 4 << 20

// managedBy is what of the system activates a user's home, as home-manager's modules
// for NixOS and nix-darwin have it: a unit for each user, and a part of the system's
// activate. All of that is root's. Empty for nothing.
func (b *base) managedBy(name string) string {
	for _, dir := range []string{currentSystem + "/etc/systemd/system", "/etc/systemd/system"} {
		// A dash in a name is escaped in a unit's (systemd.unit(5)).
		for _, escaped := range []string{name, strings.ReplaceAll(name, "-", `\x2d`)} {
			unit := filepath.Join(dir, "home-manager-"+escaped+".service")
			if _, err := os.Stat(b.at(unit)); err == nil {
				return unit
			}
		}
	}
	script := filepath.Join(currentSystem, "activate")
	text, err := atomicfile.ReadAtMost(b.at(script), maxActivateBytes)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "home-manager") && slices.Contains(strings.FieldsFunc(line, notInName), name) {
			return script
		}
	}
	return ""
}

// notInName says whether a character is in no user's name.
func notInName(r rune) bool {
	return r != '_' && r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
}

// deviceOf numbers the file system that a file is on.
func deviceOf(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev) //nolint:gosec,unconvert // Its size differs by system.
	}
	return 0
}
