package execute

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

type exitError = exec.ExitError

// command makes the process of a step: own process group, nothing on its
// standard input, output to the file itself, and only the given environment.
func command(x *driver.Exec, env []string, out *os.File) (*exec.Cmd, error) {
	// The context has no part in it: the runner ends whole groups, not one pid.
	cmd := exec.CommandContext(context.Background(), x.Argv[0], x.Argv[1:]...) //nolint:gosec // Running what the signed generation says is the purpose.
	// Never nil, which would mean the runner's own environment.
	cmd.Env = append(append(make([]string, 0, len(env)+len(x.Env)), env...), x.Env...)
	cmd.Dir = x.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if x.User == "" {
		return cmd, nil
	}
	cred, err := Credential(x.User)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = cred
	if cred != nil {
		AsUser(cmd)
	}
	return cmd, nil
}

// asUser goes to the directory $0 and starts a program there.
const asUser = `{ echo 0 >/proc/self/oom_score_adj; } 2>/dev/null
cd -- "$0" && exec "$@"`

// AsUser has what a command names, with the credential of another user, be started by the
// host's shell, which is that user already. What leads to a directory or a program of a
// user may be a file system of theirs that never answers: the process that started it
// would wait for that without end, and its descriptors, locks among them, be open there.
// Nor is what a user runs spared, as the agent is, where memory is short.
func AsUser(cmd *exec.Cmd) {
	cmd.Args = append([]string{shell, "-c", asUser, cmd.Dir, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Dir = shell, "/"
}

const shell = "/bin/sh"

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
