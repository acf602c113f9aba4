package flakes

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Presumed is what a flake in a git repository of this machine is locked to, as
// git alone knows it, in a tenth of the time that nix takes. Its NarHash is not
// known before it was evaluated.
type Presumed struct {
	Locked

	// ended is closed once clean was set.
	ended chan struct{}
	clean bool
}

// Clean waits until git has looked through the working tree, and says whether it
// is the revision's. If not, only Lock tells what the flake is.
func (p *Presumed) Clean() bool {
	<-p.ended
	return p.clean
}

// NixFirst is how long nix has to start before git is asked what can wait: what is
// waited for is nix.
const NixFirst = 5 * time.Millisecond

const (
	// gitTimeout bounds one question to git: what is slower gains nothing.
	gitTimeout = 10 * time.Second
	// aMoment is how long what was asked ahead counts.
	aMoment = time.Second
	// maxGit bounds what git may print. More changes than that are changes too.
	maxGit = 64 << 10
)

var (
	// plainPath and plainRef are what needs no quoting in a URL; what differs is
	// left to nix.
	plainPath = regexp.MustCompile(`^/[A-Za-z0-9._/+-]*$`)
	plainRef  = regexp.MustCompile(`^refs/heads/[A-Za-z0-9._/-]+$`)
	plainRev  = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// GetReady has package os try out how it can wait for processes, which it does once,
// by starting one: else the first program waits for that.
func GetReady() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Release()
	}
}

// Ahead begins what Presume does with each of the references, which then takes what
// came of it: nix can't begin before, and other things can be done meanwhile. Call
// it once, before all else, and Settle in the end. What was begun longer than a
// moment ago is asked for again: a person may have been asked for a passphrase, and
// have committed something.
func (n *Nix) Ahead(ctx context.Context, refs []string) {
	n.asked = time.Now() //nolint:forbidigo // By the monotonic clock.
	n.ahead = make(map[string]func() *Presumed, len(refs))
	for _, ref := range refs {
		if n.ahead[ref] == nil {
			n.ahead[ref] = sync.OnceValue(func() *Presumed { return presume(ctx, ref) })
			go n.ahead[ref]()
		}
	}
}

// Settle waits until what was begun ahead has ended.
func (n *Nix) Settle() {
	for _, begun := range n.ahead {
		if p := begun(); p != nil {
			p.Clean()
		}
	}
}

// Presume asks git instead of nix for the revision of a flake, and begins to ask
// it whether something is not committed; nil where that is not for git to say. It
// is a presumption: who uses it checks Clean and what the evaluation says, and
// asks Lock where one of them differs.
func (n *Nix) Presume(ctx context.Context, ref string) *Presumed {
	if begun := n.ahead[ref]; begun != nil && time.Since(n.asked) < aMoment { //nolint:forbidigo // As above.
		return begun()
	}
	return presume(ctx, ref)
}

func presume(ctx context.Context, ref string) *Presumed {
	path, dir, ok := repository(ref)
	if !ok {
		return nil
	}
	out, err := git(ctx, filepath.Join(path, dir), append([]string{"rev-parse"}, asked...)...)
	if err != nil {
		return nil
	}
	top, locked, ok := decodeHead(out)
	if isURL := strings.Contains(ref, "://"); !ok || isURL && (top != path || locked.Dir != dir) {
		return nil
	}
	// Where a directory has none, nix looks above it.
	if fi, err := os.Lstat(filepath.Join(top, locked.Dir, "flake.nix")); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	p := &Presumed{Locked: locked, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		time.Sleep(NixFirst)
		changes, err := git(ctx, top, "status", "--porcelain", "--untracked-files=no")
		p.clean = err == nil && changes == ""
	}()
	return p
}

// asked is what git rev-parse is asked for, in the order of its answers.
var asked = []string{"--is-shallow-repository", "--show-toplevel", "--show-prefix", "HEAD", "--symbolic-full-name", "HEAD"}

// decodeHead reads what git says of a working tree: where it begins, and what a
// flake in it is locked to. ok is false for what is not for git to say.
func decodeHead(out string) (top string, locked Locked, ok bool) {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != 5 {
		return "", Locked{}, false
	}
	shallow, top, prefix, rev, branch := lines[0], lines[1], strings.TrimSuffix(lines[2], "/"), lines[3], lines[4]
	if shallow != "false" || !plainPath.MatchString(top) || !plainPath.MatchString("/"+prefix) || !plainRev.MatchString(rev) || !plainRef.MatchString(branch) {
		return "", Locked{}, false
	}
	q := url.Values{"ref": {branch}, "rev": {rev}}
	if prefix != "" {
		q.Set("dir", prefix)
	}
	return top, Locked{URL: "git+file://" + top + "?" + encode(q), Rev: rev, Dir: prefix, Local: true}, true
}

// repository splits a reference that may be to a git repository of this machine
// into the path and the directory of the flake in it.
func repository(ref string) (path, dir string, ok bool) {
	if strings.HasPrefix(ref, "/") || ref == "." || ref == ".." || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../") {
		path, err := filepath.Abs(ref)
		return path, "", err == nil && plainPath.MatchString(path)
	}
	u, err := url.Parse(ref)
	if err != nil || u.Scheme != "git+file" || u.Host != "" || u.User != nil || strings.Contains(ref, "#") || !plainPath.MatchString(u.Path) {
		return "", "", false
	}
	q := u.Query()
	dir = strings.Trim(q.Get("dir"), "/")
	q.Del("dir")
	return filepath.Clean(u.Path), dir, len(q) == 0 && u.RawPath == "" && plainPath.MatchString("/"+dir)
}

// git runs git in a directory and returns what it printed.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...) //nolint:gosec // Fixed words.
	// Nothing of it may lead to another repository, and asking writes nothing.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") }), "GIT_OPTIONAL_LOCKS=0")
	out := &bounded{limit: maxGit}
	cmd.Stdout = out
	err := cmd.Run()
	return out.String(), err
}
