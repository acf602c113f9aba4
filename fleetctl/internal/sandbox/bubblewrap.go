package sandbox

import (
	"os"
	"path"
)

// bubblewrap is bwrap, on Linux.
type bubblewrap struct{ program string }

// sandboxed is where the directories of a run are for who is confined: the same for each
// run, since ssh-keygen for one writes paths into what it makes.
const sandboxed = "/run/generator"

func (bubblewrap) inside(_ work, name string) string { return path.Join(sandboxed, name) }

func (bubblewrap) temporary(work) string { return "/tmp" }

// systemDirs are the directories of programs and their libraries.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"}

// systemFiles are what programs of these can't do without.
var systemFiles = []string{"/nix/store", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/openssl.cnf"}

func (b bubblewrap) command(w work, bash []string) []string {
	args := []string{
		b.program, "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox",
		"--die-with-parent", "--new-session", "--cap-drop", "ALL",
	}
	for _, dir := range systemDirs {
		if to, err := os.Readlink(dir); err == nil {
			args = append(args, "--symlink", to, dir)
		} else {
			args = append(args, "--ro-bind-try", dir, dir)
		}
	}
	for _, file := range systemFiles {
		args = append(args, "--ro-bind-try", file, file)
	}
	for name := range accounts {
		args = append(args, "--ro-bind", w.path(etcDir, name), "/etc/"+name)
	}
	args = append(args, "--dev", "/dev", "--proc", "/proc", "--size", "67108864", "--tmpfs", "/tmp")
	for _, name := range []string{inDir, outDir, promptsDir} {
		args = append(args, "--bind", w.path(name), b.inside(w, name))
	}
	args = append(args, "--ro-bind", w.path(scriptFile), b.inside(w, scriptFile), "--chdir", "/tmp", "--")
	return append(args, bash...)
}
