// Package gitrepo commits what a command wrote, and nothing else, where the fleet's
// repository is one of git.
package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Sentinels that errors of this package wrap.
var (
	// ErrDirty is a working tree with changes that a commit would mix with.
	ErrDirty = errors.New("there are changes that are not committed")
	// ErrBusy is a merge, rebase or the like that was not ended.
	ErrBusy = errors.New("git is in the midst of something")
	// ErrCannotCommit is a repository in which git makes no commit.
	ErrCannotCommit = errors.New("git cannot commit")
)

// maxOutput bounds what of git's output is kept.
const maxOutput = 64 << 10

// Repository is a directory in a working tree of git.
type Repository struct{ dir string }

// Find returns the repository that a directory is in; nil where there is none, or no git.
func Find(ctx context.Context, dir string) (*Repository, error) {
	r := &Repository{dir}
	out, err := r.git(ctx, nil, "rev-parse", "--is-inside-work-tree")
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.As(err, &exit) && exit.ExitCode() == 128 && strings.Contains(err.Error(), "not a git repository"):
		return nil, nil
	case err != nil:
		return nil, err
	case strings.TrimSpace(out) != "true":
		return nil, nil
	}
	return r, nil
}

// Ready says whether what is written below paths now can be committed by itself: nothing
// there is uncommitted, somebody's name is known, and no merge is under way. What is staged
// elsewhere stays staged.
func (r *Repository) Ready(ctx context.Context, paths ...string) error {
	status, err := r.git(ctx, nil, append([]string{"status", "--porcelain", "--untracked-files=all", "--"}, paths...)...)
	if err != nil {
		return err
	}
	if lines := strings.Split(strings.TrimRight(status, "\n"), "\n"); lines[0] != "" {
		const most = 5
		shown := strings.Join(lines[:min(most, len(lines))], "\n")
		if len(lines) > most {
			shown += fmt.Sprintf("\n… and %d more", len(lines)-most)
		}
		return ui.WithHint(fmt.Errorf("%w:\n%s", ErrDirty, shown),
			"an interrupted run may have left them: commit or restore them, or say --no-commit")
	}
	for _, what := range []string{"MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply"} {
		out, err := r.git(ctx, nil, "rev-parse", "--path-format=absolute", "--git-path", what)
		if err != nil {
			return err
		}
		if _, err := os.Stat(strings.TrimSpace(out)); err == nil {
			return ui.WithHint(fmt.Errorf("%w (%s)", ErrBusy, what), "end it or give it up first, or say --no-commit")
		}
	}
	for _, who := range []string{"GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"} {
		if _, err := r.git(ctx, nil, "var", who); err != nil {
			return ui.WithHint(fmt.Errorf("%w: %w", ErrCannotCommit, err), "git config user.name and user.email, or say --no-commit")
		}
	}
	return nil
}

// Commit commits just these paths, files that are gone among them. Hooks do not run: they
// are about other files, and one that reformats would break these.
func (r *Repository) Commit(ctx context.Context, message string, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	list := []byte(strings.Join(paths, "\x00"))
	// Files that came to be must be known before a commit can name them.
	_, err := r.git(ctx, list, "--literal-pathspecs", "add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul")
	if err == nil {
		_, err = r.git(ctx, list, "--literal-pathspecs", "commit", "--quiet", "--no-verify", "--only", "--message", message, "--pathspec-from-file=-", "--pathspec-file-nul")
	}
	if err != nil {
		return ui.WithHint(fmt.Errorf("the values are written, and not committed: %w", err), "mend that, and commit them yourself")
	}
	return nil
}

// elsewhere are variables that lead git to another repository, as it sets them for hooks.
var elsewhere = []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_NAMESPACE", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS"}

func (r *Repository) git(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", r.dir}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(elsewhere, name)
	}), "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bounded
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		verb := args[0]
		if strings.HasPrefix(verb, "-") {
			verb = args[1]
		}
		return out.String(), fmt.Errorf("git %s: %w: %s", verb, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
