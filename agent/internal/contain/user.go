package contain

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

const shell = "/bin/sh"

// asUser goes to the directory $0 and starts a program there. Nor is what a user runs
// spared, as the agent is, where memory is short; and a user has no more processes than
// that, with all that they run elsewhere, also where nothing else bounds them. dash calls
// the limit -p.
const asUser = `{ echo 0 >/proc/self/oom_score_adj; } 2>/dev/null
{ ulimit -u ` + maxProcesses + ` || ulimit -p ` + maxProcesses + `; } 2>/dev/null
cd -- "$0" && exec "$@"`

// maxProcesses is maxTasks for the shell.
const maxProcesses = "4096"

// throughShell has what a command names, with the credential of another user, be started by
// the host's shell, which is that user already. What leads to a directory or a program of
// a user may be a file system of theirs that never answers: the process that started it
// would wait for that without end, and its descriptors, locks among them, be open there.
func throughShell(cmd *exec.Cmd) {
	cmd.Args = append([]string{shell, "-c", asUser, cmd.Dir, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Dir = shell, "/"
}

// Credential looks a user up by name or number; nil where it is the process's
// own, so that an agent without root can name itself.
func Credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		var byID error
		if u, byID = user.LookupId(name); byID != nil {
			return nil, fmt.Errorf("looking up user: %w", err)
		}
	}
	uid, err := number(u.Uid)
	if err != nil {
		return nil, err
	}
	if int64(uid) == int64(os.Getuid()) {
		return nil, nil //nolint:nilnil // No credential is the answer.
	}
	gid, err := number(u.Gid)
	if err != nil {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{}}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("looking up groups of %s: %w", name, err)
	}
	for _, g := range groups {
		n, err := number(g)
		if err != nil {
			return nil, err
		}
		cred.Groups = append(cred.Groups, n)
	}
	return cred, nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("reading user or group number: %w", err)
	}
	return uint32(n), nil
}
