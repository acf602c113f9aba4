package deadman

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestResume: after a boot, one process goes on with what was armed and with what was
// being taken back, of all switches, and leaves alone what is decided.
func TestResume(t *testing.T) {
	armed, firing, decided := newWorld(t, time.Second), another(t, time.Hour), another(t, time.Hour)
	dir := t.TempDir()
	for name, w := range map[string]*world{"armed": armed, "firing": firing, "decided": decided} {
		w.arm()
		w.kill(w.children.pids[0])
		if err := os.Symlink(w.dir, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for w, v := range map[*world]Verdict{firing: Fired, decided: Verified} {
		if got, err := w.Claim(w.order.ID, v); got != v || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	// One that never had an order, and no switch at all.
	if err := os.Mkdir(filepath.Join(dir, "idle"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileProgram), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), exe, asSwitches, dir).CombinedOutput(); err != nil || bytes.Count(out, []byte("back: true")) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	if armed.went() != 1 || firing.went() != 1 || decided.went() != 0 {
		t.Errorf("went back %d, %d and %d times", armed.went(), firing.went(), decided.went())
	}
	for _, w := range []*world{armed, firing} {
		if o := w.outcome(); !o.Back {
			t.Errorf("%+v", o)
		}
	}
}

// TestResumeIsInTheWayOfNobody: the agent that starts beside it finds its switch
// armed, and decides.
func TestResumeIsInTheWayOfNobody(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	w.kill(w.children.pids[0])
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	cmd := exec.CommandContext(t.Context(), exe, asSwitches, filepath.Dir(w.dir))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	for n := 0; ; n++ {
		if there, err := wake(w.dir); err != nil || n == 5000 {
			t.Fatalf("the process is there: %t, %v", there, err)
		} else if there {
			break
		}
		time.Sleep(time.Millisecond)
	}
	w.arm()
	if n := len(w.children.pids); n != 1 {
		t.Errorf("another process was started: %v", w.children.pids)
	}
	if v, err := w.Claim(w.order.ID, Verified); v != Verified || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := <-ended; err != nil || w.went() != 0 {
		t.Errorf("%v, %d times back", err, w.went())
	}
}

// TestResumeSaysWhatFails: an order that is damaged keeps no other from being carried
// out.
func TestResumeSaysWhatFails(t *testing.T) {
	w := newWorld(t, 50*time.Millisecond)
	w.arm()
	w.outcome()
	dir := filepath.Dir(w.dir)
	damaged := filepath.Join(dir, "damaged")
	if err := os.Mkdir(damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, fileOrder), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), exe, asSwitches, dir).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("damaged: ")) {
		t.Errorf("%v: %s", err, out)
	}
}
