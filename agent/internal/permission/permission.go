// Package permission tells what macOS permits this process to do, beyond what root may:
// what a person allows a program in System Settings > Privacy & Security. There is nothing
// to ask for it: each is tried, on what is known to be guarded by it. It belongs to the
// path of the program that launchd started, so that an agent in a terminal has the
// terminal's.
//
// Known from the sources of nix-darwin, whose activate tries the same, and Apple's
// documentation; never tried on a Mac.
package permission

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Answer says whether something is permitted.
type Answer string

// The answers.
const (
	Granted Answer = "granted"
	Denied  Answer = "denied"
	// Unknown: there is nothing to try it on, or something else was in the way.
	Unknown Answer = "unknown"
)

// Names of the permissions, for flags and programs.
const (
	AppManagement  = "app-management"
	FullDiskAccess = "full-disk-access"
)

// Names are all of them.
var Names = []string{AppManagement, FullDiskAccess}

// Permission is what is known of one.
type Permission struct {
	Answer Answer `json:"answer"`
	// Detail says what it was tried on, and what came of it.
	Detail string `json:"detail,omitempty"`
}

const (
	// nixApps are the apps that nix-darwin copies, each a bundle that App Management is
	// about. Its own check touches the same file of each, and fails the activation.
	nixApps  = "/Applications/Nix Apps/*.app"
	touched  = ".DS_Store"
	database = "/Library/Application Support/com.apple.TCC/TCC.db"
	// maxApps bounds how many are tried.
	maxApps = 256
)

// System is what permissions are tried on. The zero value is this Mac.
type System struct {
	// Root is put in front of all paths, for tests.
	Root string
	// Touch and Read try to change, and to open, a file; nil for really.
	Touch, Read func(path string) error
}

// AppManagement tells whether apps may be changed, within some seconds.
func (s System) AppManagement() Permission { return bounded(s.appManagement) }

func (s System) appManagement() Permission {
	apps, _ := filepath.Glob(filepath.Join(s.Root, nixApps)) // Fails for a bad pattern only.
	try := s.Touch
	if try == nil {
		try = touch
	}
	p := Permission{Answer: Unknown, Detail: "there is no app of nix-darwin to try it on"}
	for _, app := range apps[:min(len(apps), maxApps)] {
		if fi, err := os.Lstat(app); err != nil || !fi.IsDir() {
			continue
		}
		switch err := try(filepath.Join(app, touched)); {
		case errors.Is(err, syscall.EPERM):
			return Permission{Answer: Denied, Detail: fmt.Sprintf("changing %s: %v", app, err)}
		case err != nil:
			return Permission{Answer: Unknown, Detail: fmt.Sprintf("changing %s: %v", app, err)}
		}
		p = Permission{Answer: Granted, Detail: "the apps in " + filepath.Dir(nixApps) + " may be changed"}
	}
	return p
}

// FullDiskAccess tells whether what macOS guards may be read, within some seconds.
func (s System) FullDiskAccess() Permission { return bounded(s.fullDiskAccess) }

func (s System) fullDiskAccess() Permission {
	try := s.Read
	if try == nil {
		try = read
	}
	path := filepath.Join(s.Root, database)
	switch err := try(path); {
	case err == nil:
		return Permission{Answer: Granted, Detail: path + " may be read"}
	case errors.Is(err, syscall.EPERM):
		return Permission{Answer: Denied, Detail: fmt.Sprintf("reading %s: %v", path, err)}
	case errors.Is(err, fs.ErrNotExist):
		return Permission{Answer: Unknown, Detail: "there is no " + path + " to try it on"}
	default:
		return Permission{Answer: Unknown, Detail: fmt.Sprintf("reading %s: %v", path, err)}
	}
}
