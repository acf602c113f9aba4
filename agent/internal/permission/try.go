package permission

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tryWithin bounds an attempt: an app may be on a file system that never answers, or be
	// replaced by what is none.
	tryWithin = 3 * time.Second
	// maxStuck is how many attempts of this process may be stuck in the kernel. Then
	// nothing is tried until one comes back.
	maxStuck = 4
)

// underWay has a place for each attempt that has not come back.
var underWay = make(chan struct{}, maxStuck)

// bounded makes an attempt, and waits for it in bounds.
func bounded(try func() Permission) Permission {
	select {
	case underWay <- struct{}{}:
	default:
		return Permission{Answer: Unknown, Detail: fmt.Sprintf("%d attempts before wait for a file system that does not answer", maxStuck)}
	}
	said := make(chan Permission, 1)
	go func() {
		p := try()
		<-underWay
		said <- p
	}()
	t := time.NewTimer(tryWithin)
	defer t.Stop()
	select {
	case p := <-said:
		return p
	case <-t.C:
		return Permission{Answer: Unknown, Detail: fmt.Sprintf("trying it did not end within %s", tryWithin)}
	}
}

// errNoFile says that something else is in a file's place.
var errNoFile = errors.New("it is no file of one name")

// touch makes an empty file, or changes when it was changed. It is tried as root on what an
// administrator of the Mac may replace at any time: no link is followed in the last three
// elements of the path, nothing that is no file is waited for, and nothing is written.
func touch(path string) error {
	app := filepath.Dir(path)
	all := filepath.Dir(app)
	dir, err := unix.Open(filepath.Dir(all), openDir, 0)
	for _, name := range []string{filepath.Base(all), filepath.Base(app)} {
		if err == nil {
			dir, err = openIn(dir, name, openDir|unix.O_NOFOLLOW)
		}
	}
	if err == nil {
		var fd int
		if fd, err = openIn(dir, filepath.Base(path), unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOFOLLOW); err == nil {
			err = errors.Join(changed(fd), unix.Close(fd))
		}
	}
	if err != nil {
		return &fs.PathError{Op: "touch", Path: path, Err: err}
	}
	return nil
}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

// openIn opens what is in a directory, and closes that.
func openIn(dir int, name string, flags int) (fd int, err error) {
	fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o644) // As nix-darwin's touch does it.
	_ = unix.Close(dir)
	return fd, err //nolint:wrapcheck // The caller names the file.
}

// changed says that a file was changed just now. One with more names than one is another's,
// too.
func changed(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err //nolint:wrapcheck // As above.
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errNoFile
	}
	var now unix.Timeval
	if err := unix.Gettimeofday(&now); err != nil {
		return err //nolint:wrapcheck // As above.
	}
	return unix.Futimes(fd, []unix.Timeval{now, now}) //nolint:wrapcheck // As above.
}

// read opens a file.
func read(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) //nolint:gosec // A file of macOS.
	if err != nil {
		return err //nolint:wrapcheck // The caller says what for.
	}
	return f.Close() //nolint:wrapcheck // As above.
}
