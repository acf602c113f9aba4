package sandbox

import (
	"strconv"
	"strings"
)

// seatbelt is sandbox-exec, on macOS.
type seatbelt struct{ program string }

func (seatbelt) inside(w work, name string) string { return w.path(name) }

func (seatbelt) temporary(w work) string { return w.path(tmpDir) }

// profile refuses all but what follows. There is nothing about networks in it.
const profile = `(version 1)
(deny default)
(allow process-fork)
(allow process-exec)
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow file-read*
  (literal "/")
  (subpath "/nix/store")
  (subpath "/usr")
  (subpath "/bin")
  (subpath "/sbin")
  (subpath "/System")
  (subpath "/private/etc/ssl")
  (subpath "/private/var/db/dyld")
  (literal "/dev/null")
  (literal "/dev/zero")
  (literal "/dev/random")
  (literal "/dev/urandom"))
(allow file-write-data (literal "/dev/null"))
`

func (s seatbelt) command(w work, bash []string) []string {
	var own strings.Builder
	own.WriteString(profile)
	own.WriteString("(allow file-read* (subpath " + strconv.Quote(w.path()) + "))\n(allow file-write*")
	for _, name := range []string{inDir, outDir, promptsDir, tmpDir} {
		own.WriteString("\n  (subpath " + strconv.Quote(w.path(name)) + ")")
	}
	own.WriteString(")\n")
	// bash begins where it may write; the profile's text has no value in it.
	return append([]string{s.program, "-p", own.String(), bash[0], "-c", `cd "$0" && exec "$@"`, w.path(tmpDir)}, bash...)
}
