package permission

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// denied is what macOS answers for what it does not permit: not EACCES.
func denied(path string) error { return &fs.PathError{Op: "open", Path: path, Err: syscall.EPERM} }

func TestAppManagement(t *testing.T) {
	apps := func(names ...string) System {
		s := System{Root: t.TempDir()}
		for _, n := range names {
			if err := os.MkdirAll(filepath.Join(s.Root, "Applications/Nix Apps", n), 0o755); err != nil { //nolint:gosec // As on a Mac.
				t.Fatal(err)
			}
		}
		return s
	}
	for name, tt := range map[string]struct {
		s     System
		touch func(string) error
		want  Answer
		says  string
	}{
		"no app":         {apps(), denied, Unknown, "no app"},
		"no app either":  {apps("Notes.txt"), denied, Unknown, "no app"},
		"granted":        {apps("Emacs.app", "Firefox.app"), nil, Granted, "may be changed"},
		"denied":         {apps("Emacs.app"), denied, Denied, "Emacs.app: open"},
		"another reason": {apps("Emacs.app"), func(string) error { return syscall.EROFS }, Unknown, "read-only"},
		"denied for one": {apps("Emacs.app", "Firefox.app"), func(p string) error {
			if strings.Contains(p, "Firefox") {
				return denied(p)
			}
			return nil
		}, Denied, "Firefox.app"},
	} {
		tt.s.Touch = tt.touch
		if p := tt.s.AppManagement(); p.Answer != tt.want || !strings.Contains(p.Detail, tt.says) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	s := apps("Emacs.app")
	for range 2 {
		if p := s.AppManagement(); p.Answer != Granted {
			t.Errorf("%+v", p)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Root, "Applications/Nix Apps/Emacs.app/.DS_Store")); err != nil {
		t.Error(err)
	}
}

// TestReplaced: what an administrator has in the place of a file, or of a directory on the
// way to it, is neither followed, nor waited for, nor changed, and says nothing of what is
// permitted.
func TestReplaced(t *testing.T) {
	long := time.Now().Add(-time.Hour).Truncate(time.Second) //nolint:forbidigo // A file's.
	for name, replace := range map[string]func(apps, theirs string) error{
		"a link to a file": func(apps, theirs string) error { return os.Symlink(theirs, filepath.Join(apps, "E.app", touched)) },
		"a link to nothing": func(apps, theirs string) error {
			return errors.Join(os.Remove(theirs), os.Symlink(theirs, filepath.Join(apps, "E.app", touched)))
		},
		"another name of a file": func(apps, theirs string) error { return os.Link(theirs, filepath.Join(apps, "E.app", touched)) },
		"a fifo":                 func(apps, _ string) error { return syscall.Mkfifo(filepath.Join(apps, "E.app", touched), 0o666) },
		"a directory":            func(apps, _ string) error { return os.Mkdir(filepath.Join(apps, "E.app", touched), 0o755) }, //nolint:gosec // As on a Mac.
		"an app that is a link": func(apps, theirs string) error {
			return errors.Join(os.Remove(filepath.Join(apps, "E.app")), os.Symlink(filepath.Dir(theirs), filepath.Join(apps, "E.app")))
		},
		"apps that are a link": func(apps, theirs string) error {
			return errors.Join(os.RemoveAll(apps), os.Mkdir(filepath.Dir(theirs)+"/E.app", 0o755), os.Symlink(filepath.Dir(theirs), apps)) //nolint:gosec // As above.
		},
	} {
		s, dir := System{Root: t.TempDir()}, t.TempDir()
		apps, theirs := filepath.Join(s.Root, filepath.Dir(nixApps)), filepath.Join(dir, touched)
		if err := errors.Join(os.MkdirAll(filepath.Join(apps, "E.app"), 0o755), os.WriteFile(theirs, nil, 0o600), os.Chtimes(theirs, long, long), replace(apps, theirs)); err != nil { //nolint:gosec // As above.
			t.Fatal(err)
		}
		began := time.Now() //nolint:forbidigo // What is not to be waited for.
		if p := s.AppManagement(); p.Answer != Unknown || p.Detail == "" {
			t.Errorf("%s: %+v", name, p)
		}
		if took := time.Since(began); took > tryWithin/2 { //nolint:forbidigo // As above.
			t.Errorf("%s: after %s", name, took)
		}
		made, err := filepath.Glob(filepath.Join(dir, "E.app", "*"))
		if err != nil || len(made) > 0 {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
		switch fi, err := os.Stat(theirs); {
		case name == "a link to nothing":
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: it was made: %v", name, err)
			}
		case err != nil || !fi.ModTime().Equal(long):
			t.Errorf("%s: changed, %v", name, err)
		}
	}
}

// TestStuck: an attempt that never ends holds nobody, and only a few are made.
func TestStuck(t *testing.T) {
	s := System{Root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(s.Root, "Applications/Nix Apps/E.app"), 0o755); err != nil { //nolint:gosec // As on a Mac.
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		answers, tries := make(chan struct{}), make(chan struct{}, 100)
		hangs := func(string) error {
			tries <- struct{}{}
			<-answers
			return nil
		}
		s := System{Root: s.Root, Touch: hangs, Read: hangs}
		for n := range 3 * maxStuck {
			try := s.AppManagement
			if n%2 == 1 {
				try = s.FullDiskAccess
			}
			began := time.Now() //nolint:forbidigo // The bubble's.
			if p := try(); p.Answer != Unknown || !strings.Contains(p.Detail, "not") {
				t.Errorf("%+v", p)
			}
			if took := time.Since(began); took > tryWithin { //nolint:forbidigo // As above.
				t.Errorf("after %s", took)
			}
		}
		if len(tries) != maxStuck {
			t.Errorf("tried %d times", len(tries))
		}
		close(answers)
		synctest.Wait()
		if p := s.AppManagement(); p.Answer != Granted {
			t.Errorf("once it answers: %+v", p)
		}
	})
}

func TestFullDiskAccess(t *testing.T) {
	s := System{Root: t.TempDir()}
	if p := s.FullDiskAccess(); p.Answer != Unknown || !strings.Contains(p.Detail, "there is no") {
		t.Errorf("%+v", p)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(s.Root, database)), 0o755); err != nil { //nolint:gosec // As on a Mac.
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root, database), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if p := s.FullDiskAccess(); p.Answer != Granted {
		t.Errorf("%+v", p)
	}
	for err, want := range map[error]Answer{syscall.EPERM: Denied, syscall.EACCES: Unknown, errors.New("no"): Unknown} {
		s.Read = func(string) error { return err }
		if p := s.FullDiskAccess(); p.Answer != want || !strings.Contains(p.Detail, err.Error()) {
			t.Errorf("%v: %+v", err, p)
		}
	}
}
