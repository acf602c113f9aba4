package nixdriver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// maxSaid bounds what a reason repeats of nix.
const maxSaid = 1500

// passing are words of nix about troubles of the moment: networks, caches,
// memory, disks, other processes. What nix says of evaluations and builds is
// without end, so that everything else is taken to be the source's own fault.
var passing = []string{
	// Downloads (libcurl, filetransfer.cc).
	"unable to download", "HTTP error", "Could not resolve host", "Couldn't resolve host",
	"Could not connect to server", "Couldn't connect to server", "Failed to connect to",
	"Connection refused", "Connection reset", "Connection timed out", "Operation timed out", "Timeout was reached",
	"Network is unreachable", "No route to host", "Temporary failure in name resolution",
	"SSL connect error", "SSL peer certificate", "Server returned nothing", "transfer closed with",
	"Failure when receiving data", "does not exist in binary cache", "is not valid in any of the configured substituters",
	"there is no substituter that can build it", "some substitutes for the outputs of derivation",
	// Whatever keeps a tree from being fetched, save that it is another one.
	"while fetching the input", "Failed to open archive",
	// Git.
	"unable to access", "Could not read from remote repository", "Failed to fetch git repository",
	"Cannot find Git revision", "getting Git object", "does not appear to be a git repository", "early EOF", "unexpected disconnect", "remote end hung up",
	"The requested URL returned error",
	// Builders and the machine.
	"failed due to signal", "Cannot allocate memory", "out of memory", "std::bad_alloc", "No space left on device",
	"Disk quota exceeded", "Input/output error", "Read-only file system", "Too many open files",
	"Resource temporarily unavailable", "unable to fork", "unable to start any build", "failed to start SSH connection",
	"cannot connect to", "cannot open connection to remote store", "unexpected end-of-file", "Nix daemon disconnected",
	"database is locked", "database is busy", "SQLite database", "interrupted by the user",
	"opening pseudoterminal master", "Text file busy",
	// What a user may not do on this host.
	"is not allowed to connect to the Nix daemon", "is not owned by current user",
}

// passingInLogs are words of builders that fetch: their derivations fail like
// any other, although only a network does.
var passingInLogs = []string{"error: cannot download", "curl: (5)", "curl: (6)", "curl: (7)", "curl: (18)", "curl: (28)", "curl: (35)", "curl: (52)", "curl: (56)", "Could not resolve host"}

// final are words that decide whatever else was said.
var final = []string{"error: " + mismatch, "NAR hash mismatch", "hash mismatch in fixed-output derivation"}

// mismatch begins what the expression of a flake throws.
const mismatch = "fleet: pinned "

// judge tells a failure of the source, which wraps driver.ErrSource, from one of
// the moment.
func judge(err error) error {
	var f *failure
	if !errors.As(err, &f) || f.code < 0 {
		return err
	}
	if f.final() || !f.passes() {
		return fmt.Errorf("%w: %w", driver.ErrSource, err)
	}
	return err
}

func (f *failure) final() bool {
	for _, line := range f.lines {
		if !builderLine(line) && containsAny(line, final) {
			return true
		}
	}
	return false
}

func (f *failure) passes() bool {
	for _, line := range f.lines {
		words := passing
		if builderLine(line) {
			words = passingInLogs
		} else if strings.HasPrefix(line, "warning:") {
			continue // such as a cache that nix goes on without
		}
		if containsAny(line, words) {
			return true
		}
	}
	return false
}

// builderLine says whether nix repeats a line of a builder.
func builderLine(line string) bool { return strings.HasPrefix(line, "> ") }

func containsAny(s string, words []string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// said is what nix said, from its first error on; where that is long, its end.
func (f *failure) said() string {
	var lines []string
	for _, line := range f.lines {
		if len(lines) == 0 && !strings.HasPrefix(line, "error:") || ours(line) {
			continue
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = f.lines
	}
	said := strings.Join(lines, " ")
	if over := len(said) - maxSaid; over > 0 {
		said = "…" + strings.ToValidUTF8(said[over:], "")
	}
	return said
}

// ours says whether nix repeats the drivers' own expression, or points into it.
func ours(line string) bool {
	return strings.HasPrefix(line, "at «string»") || strings.HasPrefix(line, "1| let tree = ") ||
		strings.HasPrefix(line, "|") && strings.Trim(line, "| ^") == ""
}
