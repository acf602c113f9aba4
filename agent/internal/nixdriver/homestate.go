package nixdriver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Where home-manager and Nix keep a user's state, below the home: the agent sets no
// XDG_STATE_HOME for what it runs.
const (
	homeCurrent  = ".local/state/home-manager/gcroots/current-home"
	homeProfiles = ".local/state/nix/profiles"
	// perUser is where Nix before 2.14 kept the profiles of users, below its
	// profiles, and where root's are.
	perUser = "per-user"
	// homeProfile is home-manager's among a user's profiles.
	homeProfile = "home-manager"
)

// maxHomeLinks bounds the links that lead from one to a store path.
const maxHomeLinks = 8

// homeTimeout bounds a look at a home: it may be on a network, or on a file system
// that its user made and that never answers.
const homeTimeout = 2 * time.Second

// homeState is what a home says about home-manager.
type homeState struct {
	// current is the generation that was activated last, profiled the one that the
	// profile has; empty for none.
	current, profiled string
	// profile is where the link of the profile is, or will be.
	profile string
	// runtime is the directory of the user's session; empty where there is none.
	runtime string
	// apart says that the home is another file system than what it is in.
	apart bool
}

// looks keeps one look at each home under way: one that never ends must not be
// followed by others.
type looks struct {
	// read does it.
	read func(account) (homeState, error)

	mu    sync.Mutex // guards what follows
	under map[string]*aLook
}

// aLook is done when its channel is closed; then its other fields are set.
type aLook struct {
	done  chan struct{}
	state homeState
	err   error
}

// look reads what a home says. Errors that wrap errHindered are of the host.
func (d *Home) look(a account) (homeState, error) {
	l := d.begin(a)
	t := time.NewTimer(homeTimeout)
	defer t.Stop()
	select {
	case <-l.done:
		return l.state, l.err
	case <-t.C:
		return homeState{}, hinders(fleet.ReasonHomeUnusable, "look at what it is mounted from"+goesOn, "the home directory %s does not answer", a.home)
	}
}

func (d *Home) begin(a account) *aLook {
	d.looks.mu.Lock()
	defer d.looks.mu.Unlock()
	if l := d.looks.under[a.home]; l != nil {
		return l
	}
	l := &aLook{done: make(chan struct{})}
	if d.looks.under == nil {
		d.looks.under = map[string]*aLook{}
	}
	d.looks.under[a.home] = l
	go func() {
		l.state, l.err = d.looks.read(a)
		d.looks.mu.Lock()
		delete(d.looks.under, a.home)
		d.looks.mu.Unlock()
		close(l.done)
	}()
	return l
}

// read looks into a home, which is its user's, who may be at war with root: links are
// read, nothing is opened but directories and nothing written, and no link is followed
// out of the home (os.Root walks by descriptors). Whatever a link says counts only as
// the name of a store path.
func (d *Home) read(a account) (homeState, error) {
	const mend = "mend the home directory on the host" + goesOn
	r, err := os.OpenRoot(d.at(a.home))
	if err != nil {
		return homeState{}, hinders(fleet.ReasonHomeUnusable, mend, "the home directory of %s: %v", a.name, err)
	}
	defer func() { _ = r.Close() }()
	fi, err := r.Stat(".")
	if err != nil {
		return homeState{}, fmt.Errorf("looking at %s: %w", a.home, err)
	}
	if owner := ownerOf(fi); owner != a.uid {
		return homeState{}, hinders(fleet.ReasonHomeUnusable, mend, "%s, the home directory of %s, belongs to the user with the number %d", a.home, a.name, owner)
	}
	st := homeState{apart: !sameFS(fi, filepath.Dir(d.at(a.home)))}
	// That is the user's, too: another file system may be mounted on it.
	if dir := filepath.Join("/run/user", strconv.FormatUint(uint64(a.uid), 10)); d.owned(dir, a.uid) {
		st.runtime = dir
	}
	if st.current, err = leads(r, homeCurrent); err != nil {
		return homeState{}, hinders(fleet.ReasonHomeUnusable, mend, "what runs in the home of %s can't be told: %v", a.name, err)
	}
	err = d.readProfile(a, r, &st)
	if err != nil {
		return homeState{}, hinders(fleet.ReasonHomeUnusable, mend, "the profile of home-manager of %s can't be read: %v", a.name, err)
	}
	return st, nil
}

// readProfile finds the profile where home-manager does: in the home, or among Nix's.
func (d *Home) readProfile(a account, home *os.Root, st *homeState) (err error) {
	own := filepath.Join(homeProfiles, homeProfile)
	if fi, serr := home.Stat(homeProfiles); serr == nil && fi.IsDir() {
		st.profile = filepath.Join(a.home, own)
		st.profiled, err = leads(home, own)
		return err
	}
	shared := filepath.Join(perUser, a.name)
	st.profile = filepath.Join(a.home, own) // Where Nix makes it.
	if a.uid == 0 {
		st.profile = filepath.Join(profilesDir, shared, homeProfile)
	}
	// On old hosts anybody may write there.
	r, err := os.OpenRoot(d.at(profilesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if fi, err := r.Lstat(shared); err != nil || !fi.IsDir() || ownerOf(fi) != a.uid {
		return nil //nolint:nilerr // There is none.
	}
	st.profile = filepath.Join(profilesDir, shared, homeProfile)
	st.profiled, err = leads(r, filepath.Join(shared, homeProfile))
	return err
}

// leads follows links to a store path, below a directory; empty where there is none.
func leads(r *os.Root, link string) (string, error) {
	at := link
	for range maxHomeLinks {
		to, err := r.Readlink(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && at == link:
			return "", nil
		case err != nil:
			return "", err
		case fleet.ValidateStorePath(to) == nil:
			return to, nil
		case filepath.IsAbs(to):
			return "", fmt.Errorf("%s leads to %.200q, which is no store path", at, to)
		}
		at = filepath.Join(filepath.Dir(at), to)
	}
	return "", fmt.Errorf("%s leads on and on", link)
}

// sameFS says whether a directory is on the file system of a file.
func sameFS(fi os.FileInfo, dir string) bool {
	other, err := os.Stat(dir)
	return err != nil || deviceOf(fi) == deviceOf(other)
}
