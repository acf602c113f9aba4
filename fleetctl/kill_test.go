package fleetctl

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
)

// killer is a reporter that ends the publish where a step begins, as if the
// process were gone.
type killer struct {
	at publisher.Step
	reporter
}

type killed struct{}

func (k *killer) Step(s publisher.Step) {
	if s == k.at {
		panic(killed{})
	}
}

// kill publishes until a step begins.
func (w *world) kill(at publisher.Step) {
	w.t.Helper()
	o := &options{
		Dir: w.dir, Address: w.server.Address, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{},
		Now: w.now, Getenv: w.getenv,
	}
	s, err := o.connect()
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	targets, _, err := selectTargets(s.workspace, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if r := recover(); r != (killed{}) {
			w.t.Fatalf("the publish was not killed at %s: %v", at, r)
		}
	}()
	k := &killer{at: at, reporter: reporter{progress: o.progress()}}
	_, err = s.publisher(o, k).Publish(w.t.Context(), publisher.Request{Targets: targets, Inventory: s.inventory(), Revision: func() string { return "" }})
	w.t.Fatalf("the publish was not killed at %s: %v", at, err)
}

// TestPublishKilled kills a publish before each step and repeats it.
func TestPublishKilled(t *testing.T) {
	for _, step := range publisher.Steps() {
		t.Run(string(step), func(t *testing.T) {
			w := newWorld(t)
			w.write(fleetText+"  machine:\n    galena:\n      secrets: {token: {file: ./sealed/token.age}}\n", repo.FleetFile)
			w.sealSecret("one")
			w.enrol("galena")
			w.published()
			w.bundle("v2")
			w.sealSecret("two")
			head := w.server.Head
			w.kill(step)
			visible := step == publisher.StepMark
			if moved := w.server.Head != head; moved != visible {
				t.Errorf("head moved: %v", moved)
			}
			a, b := w.desiredNumber("galena"), w.desiredNumber("cinnabar")
			if a != b || (a == "1.2") != visible {
				t.Errorf("hosts see %s and %s", a, b)
			}

			used := map[string]bool{}
			for _, r := range w.releases() {
				for _, g := range r.Generations {
					used[string(g.Machine)+g.Number.String()] = true
				}
			}
			res := w.published()
			for _, g := range res.Generations {
				if used[string(g.Machine)+g.Number] {
					t.Errorf("%s got number %s a second time", g.Machine, g.Number)
				}
			}
			_, manifest := w.desired("galena")
			if v := manifest.Doc.Entries[0].Version; v < 2 {
				t.Errorf("secret is at version %d", v)
			}
			for _, r := range w.releases() {
				if r.State != repo.ReleaseCommitted && (visible || string(r.ID) == w.server.Head) {
					t.Errorf("release %s is %s", r.ID, r.State)
				}
			}
		})
	}
}

// cutter passes connections on and cuts each of the first few after some
// bytes.
type cutter struct {
	listener net.Listener
	target   string
	cuts     int
	after    int64
	wait     sync.WaitGroup
}

func newCutter(t *testing.T, target string, cuts int, after int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target, cuts: cuts, after: after}
	c.wait.Go(c.serve)
	t.Cleanup(func() {
		_ = l.Close()
		c.wait.Wait()
	})
	return c
}

func (c *cutter) serve() {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		limit := int64(1 << 40)
		if c.cuts > 0 {
			c.cuts--
			limit = c.after
		}
		c.wait.Go(func() { c.pass(in, limit) })
	}
}

func (c *cutter) pass(in net.Conn, limit int64) {
	defer in.Close()
	out, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer out.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.Close()
	})
	_, _ = io.CopyN(out, in, limit)
	_ = in.Close()
	_ = out.Close()
	back.Wait()
}

func TestPublishConnectionCut(t *testing.T) {
	w := newWorld(t)
	w.write(strings.Repeat("0123456789abcdef", 1<<17), "bundles", "web", "data")
	c := newCutter(t, w.server.Address, 2, 900<<10)
	w.published("galena", "--coordinator", c.listener.Addr().String())
	if len(w.server.Blobs) != 1 {
		t.Errorf("%d blobs", len(w.server.Blobs))
	}
	puts := 0
	for _, m := range w.server.Methods {
		if strings.HasSuffix(m, "/PutBlob") {
			puts++
		}
	}
	if puts != 3 {
		t.Errorf("%d uploads, want 3: two were cut", puts)
	}
}

// TestPublishCommittedAndOvertaken: a publisher that died after Commit, and whom
// another one overtook, still lists what hosts ran as a place to go back to.
func TestPublishCommittedAndOvertaken(t *testing.T) {
	w := newWorld(t)
	w.published()
	w.published()
	rs := w.releases()
	// Killed between the coordinator's commit and the mark in the repository.
	last := rs[len(rs)-1]
	last.State = repo.ReleasePrepared
	if err := repo.At(w.dir).WriteRelease(last); err != nil {
		t.Fatal(err)
	}
	w.clone().published() // the other publisher, who pulled
	w.published()
	d, _ := w.desired("galena")
	for _, r := range d.Doc.RevertTo {
		if r.Release == last.ID {
			return
		}
	}
	t.Errorf("revert_to of %s lacks %s, which hosts had: %v", d.Doc.Number, last.ID, d.Doc.RevertTo)
}
