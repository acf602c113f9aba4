package nixdriver

import (
	"errors"
	"os"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// TestInStore: links are followed within the store, and nowhere else: what is there may be
// a file system that never answers.
func TestInStore(t *testing.T) {
	const one, other = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rm-one", storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rn-other"
	w, d := newHome(t)
	w.program(other+"/bin/activate", "exit 0")
	w.program("tmp/activate", "exit 0")
	w.dir(one + "/dir")
	for name, to := range map[string]string{
		"absolute": other + "/bin/activate", "relative": "../vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rn-other/bin/activate", "chain": "absolute",
		"bin": other + "/bin", "dir/up": "../absolute",
		"out": "/tmp/activate", "climbs": "../../../tmp/activate", "tmp": "/tmp", "store": storeDir, "circle": "circle", "gone": other + "/nothing",
	} {
		w.raw(one+"/"+name, to)
	}
	w.raw(storeDir+"/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rp-link", "/tmp")
	for place, want := range map[string]error{
		one + "/absolute": nil, one + "/relative": nil, one + "/chain": nil, one + "/bin/activate": nil, one + "/dir/up": nil,
		one + "/out": errOutOfStore, one + "/climbs": errOutOfStore, one + "/tmp/activate": errOutOfStore, one + "/store": errOutOfStore,
		storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rp-link/activate": errOutOfStore, "/tmp/activate": errOutOfStore,
		one + "/gone": os.ErrNotExist, one + "/circle": errCircle,
	} {
		fi, err := d.inStore(place)
		if !errors.Is(err, want) || err == nil && !fi.Mode().IsRegular() {
			t.Errorf("%s: %v, want %v", place, err, want)
		}
	}
	// So a home that says that such a path runs says nothing.
	w.raw(homeOld+"/activate-out", "/tmp/activate")
	if err := os.Rename(w.root+homeOld+"/activate-out", w.root+homeOld+"/activate"); err != nil {
		t.Fatal(err)
	}
	w.runs(homeOld, "")
	if path, err := d.Current(t.Context(), ann); path != "" || err != nil {
		t.Errorf("runs %q, %v", path, err)
	}
	if _, err := d.Activation(t.Context(), ann, "", homeOld); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
}
