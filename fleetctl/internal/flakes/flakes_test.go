package flakes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const system = ".config.system.build.toplevel"

var locked = Locked{
	URL:     "git+file:///repo/flake?ref=refs/heads/main&rev=" + nixtest.Rev,
	NarHash: nixtest.NarHash, Rev: nixtest.Rev, Local: true,
}

func attr(machine string) Attr {
	return Attr{Flake: locked, Path: "nixosConfigurations." + machine + system}
}

// TestGood goes all the way, with one process for each question.
func TestGood(t *testing.T) {
	stand := nixtest.New(t, "built")
	var lines []string
	n := &Nix{Program: stand.Program, Progress: func(line string) { lines = append(lines, line) }}
	l, err := n.Lock(t.Context(), nixtest.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locked, l); diff != "" {
		t.Errorf("locked (-want +got):\n%s", diff)
	}
	outputs, err := n.Evaluate(t.Context(), []Attr{attr("a"), attr("b")})
	if err != nil {
		t.Fatal(err)
	}
	a, b := outputs[attr("a")], outputs[attr("b")]
	if a.Path != nixtest.SystemA || b.Path != nixtest.SystemB || a.Name != "out" {
		t.Errorf("outputs %+v", outputs)
	}
	if err := n.Build(t.Context(), []Output{a, b}); err != nil {
		t.Fatal(err)
	}
	closures, err := n.Closures(t.Context(), []string{b.Path, a.Path})
	if err != nil {
		t.Fatal(err)
	}
	m := closures[a.Path].Manifest("first")
	if err := m.Validate(); err != nil || len(m.Paths) != 2 || m.Root != a.Path || m.Issued.IsZero() {
		t.Errorf("manifest %+v: %v", m, err)
	}
	if got := stand.Calls(); got != "flake eval build path-info" {
		t.Errorf("calls %q", got)
	}
}

// TestRefusals replays what real mistakes look like.
func TestRefusals(t *testing.T) {
	lock := func(ref string) func(context.Context, *Nix) error {
		return func(ctx context.Context, n *Nix) error { _, err := n.Lock(ctx, ref); return err }
	}
	eval := func(path string) func(context.Context, *Nix) error {
		return func(ctx context.Context, n *Nix) error {
			_, err := n.Evaluate(ctx, []Attr{{Flake: locked, Path: path}})
			return err
		}
	}
	both := func(ctx context.Context, n *Nix) error {
		_, err := n.Evaluate(ctx, []Attr{attr("a"), attr("b")})
		return err
	}
	build := func(ctx context.Context, n *Nix) error {
		return n.Build(ctx, []Output{{Drv: "/nix/store/0abbrv1qwxnwgqh2m3z9ncyhry4lgrj2-fails.drv", Name: "out", Path: nixtest.SystemA}})
	}
	buildBoth := func(ctx context.Context, n *Nix) error {
		return n.Build(ctx, []Output{
			{Drv: "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-nixos-system-a.drv", Name: "out", Path: nixtest.SystemA},
			{Drv: "/nix/store/kbrkibdhj0p9lcg21a1ywl8cxmgv4f5n-nixos-system-b.drv", Name: "out", Path: nixtest.SystemB},
		})
	}
	info := func(paths ...string) func(context.Context, *Nix) error {
		return func(ctx context.Context, n *Nix) error { _, err := n.Closures(ctx, paths); return err }
	}
	const nope = "/nix/store/0000jkxbjifz8ci65dss1zjvlhyfbg51-nope"
	const bad = "nixosConfigurations.bad" + system
	for _, c := range []struct {
		name, recording string
		edits           []string
		do              func(context.Context, *Nix) error
		want            error
		text            string
	}{
		{"dirty", "dirty", nil, lock(nixtest.Ref), ErrDirty, nixtest.Ref},
		{"nothing committed", "uncommitted", nil, lock("git+file:///repo/empty"), ErrUnlocked, "neither a revision nor a hash"},
		{"no lock file", "unlocked", nil, lock("path:/repo/plain"), ErrUnlocked, "requires lock file changes"},
		{"absent", "absent", nil, lock("path:/repo/nothing"), ErrFetch, "does not exist"},
		{"metadata of no known form", "good", []string{"flake.out", `[]`}, lock(nixtest.Ref), ErrOutput, ""},
		{"metadata without a hash", "good", []string{"flake.out", `{"url":"git+file:///x?rev=1","locked":{"rev":"1"}}`}, lock(nixtest.Ref), ErrUnlocked, "hash of its tree"},
		{"a url that is none", "good", []string{"flake.out", `{"url":"\u001b[2J#","locked":{"rev":"1","narHash":"x"}}`}, lock(nixtest.Ref), ErrOutput, "locked url"},
		{"missing attribute", "missing", nil, eval("nixosConfigurations.nobody"), ErrNoAttr, "#nixosConfigurations.nobody"},
		{"no derivation", "value", nil, eval("nixosConfigurations.notdrv" + system), ErrNoDerivation, "of type int"},
		{"error in Nix code", "broken", nil, eval(bad), ErrEvaluation, "#" + bad + ": the evaluation failed: this machine is\n        broken"},
		{
			"hostile text", "broken",
			[]string{"eval.err", "error: \x1b[31;1mred\x1b[0m \x1b]0;title\x07and \xff\u202e\u200bmore\n"},
			eval(bad), ErrEvaluation, "red ]0;titleand more",
		},
		{"an evaluation of no known form", "good", []string{"eval.out", `{"nix":"2.26.3","results":[]}`}, both, ErrOutput, "0 results for 2"},
		{"an evaluation that is none", "good", []string{"eval.out", `warning`}, both, ErrOutput, ""},
		{"an out path that is none", "missing", []string{"eval.out", `{"nix":"2.26.3","results":[{"drv":"/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-x.drv","out":"/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9","output":"out"}]}`}, eval("nixosConfigurations.nobody"), ErrOutput, "1rz4g4"},
		{"old nix, by the evaluation", "good", []string{"eval.out", `{"nix":"2.15.1","results":[{"missing":true},{"missing":true}]}`}, both, ErrOldNix, "2.15.1"},
		{"old nix, by its failure", "unlocked", []string{"version.out", "nix (Nix) 2.8.0\n"}, lock("path:/repo/plain"), ErrOldNix, "2.8.0"},
		{"failing build", "failing", nil, build, ErrBuild, "failed with exit code 3"},
		{"another out path", "built", []string{"build.out", `[{"drvPath":"/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-nixos-system-a.drv","outputs":{"out":"` + nope + `"}}]`}, buildBoth, ErrOutPath, nope},
		{"a build of no known form", "built", []string{"build.out", `{}`}, buildBoth, ErrOutput, ""},
		{"store path that is not there", "invalid", nil, info(nope), ErrNotInStore, nope},
		{"store path that is not there, told as null", "prebuilt", []string{"path-info.out", `{"` + nope + `":null}`}, info(nixtest.SystemA), ErrNotInStore, nope},
		{"a closure with a hole", "prebuilt", []string{"path-info.out", `{"` + nixtest.SystemA + `":{"narHash":"` + nixtest.NarHash + `","references":["` + nope + `"]}}`}, info(nixtest.SystemA), ErrOutput, nope + " is missing"},
		{"path info of no known form", "prebuilt", []string{"path-info.out", `{"version":2}`}, info(nixtest.SystemA), ErrOutput, ""},
		{"a call that was not expected", "good", nil, lock("path:/elsewhere"), ErrFetch, "no recording"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(t.Context(), &Nix{Program: nixtest.New(t, c.recording, c.edits...).Program})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v\nwant %v with %q", err, c.want, c.text)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x07\u202e\u200b") {
				t.Errorf("control characters in %q", err)
			}
			if ui.HintOf(err) == "" && !errors.Is(err, ErrOutput) {
				t.Errorf("no hint with %v", err)
			}
		})
	}
}

func TestNoNix(t *testing.T) {
	for _, program := range []string{"no-such-nix", filepath.Join(t.TempDir(), "nix")} {
		_, err := (&Nix{Program: program}).Lock(t.Context(), nixtest.Ref)
		if !errors.Is(err, ErrNoNix) || ui.HintOf(err) == "" {
			t.Errorf("%s: %v", program, err)
		}
	}
	if _, err := (&Nix{Program: t.TempDir()}).Lock(t.Context(), nixtest.Ref); err == nil {
		t.Error("a directory is no program")
	}
}

// script is a program in place of nix.
func script(t *testing.T, text string) *Nix {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nix")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Nix{Program: path}
}

func TestEndlessOutput(t *testing.T) {
	if _, err := script(t, "exec yes").run(t.Context(), 1<<20); !errors.Is(err, ErrTooMuch) {
		t.Errorf("standard output: %v", err)
	}
	// Of errors only the end is kept.
	_, err := script(t, `if [ "$1" = --version ]; then echo 2.26.3; exit; fi
yes noise | head -c 4000000 >&2; echo >&2; echo 'error: the end' >&2; exit 1`).run(t.Context(), 1<<20)
	if f := (*failed)(nil); !errors.As(err, &f) || f.message() != "the end" {
		t.Errorf("standard error: %v", err)
	}
}

// TestInterrupted: nix is told to end, and the reason is the caller's.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := filepath.Join(t.TempDir(), "begun")
	done := make(chan error, 1)
	go func() {
		_, err := script(t, "echo >"+begun+"\nexec tail -f /dev/null").run(ctx, 1<<20)
		done <- err
	}()
	for {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCheckVersion(t *testing.T) {
	for text, good := range map[string]bool{
		"nix (Nix) 2.26.3": true, "2.18.0": true, "nix (Nix) 2.17.9": false, "2.8": false, "1.11": false, "3.0": true,
		"nix (Determinate Nix 3.5.2) 2.28.3": true, "nix (Lix, like Nix) 2.91.1": true, "2.30pre20250521_0123abc": true, "": true, "no number": true,
	} {
		if err := checkVersion(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAt(t *testing.T) {
	inDir := Locked{URL: "x", NarHash: nixtest.NarHash, Rev: nixtest.Rev, Dir: "deploy"}
	path := Locked{URL: "path:/x?narHash=y", NarHash: nixtest.NarHash}
	const hash = "narHash=sha256-pvaf4Ri6jjL%2BtV8XWoKte9EMSudT0%2BblWVlqowlH8UQ%3D"
	for _, c := range []struct {
		l           Locked
		place, want string
	}{
		{locked, "git+https://example.org/fleet", "git+https://example.org/fleet?rev=" + nixtest.Rev},
		{locked, "git+https://example.org/fleet?ref=refs/heads/main", "git+https://example.org/fleet?ref=refs/heads/main&rev=" + nixtest.Rev},
		{inDir, "git+ssh://git@example.org/fleet", "git+ssh://git@example.org/fleet?dir=deploy&rev=" + nixtest.Rev},
		{inDir, "git+https://example.org/fleet?dir=other", "git+https://example.org/fleet?dir=other&rev=" + nixtest.Rev},
		{locked, "github:owner/fleet", "github:owner/fleet/" + nixtest.Rev},
		{inDir, "gitlab:owner/fleet", "gitlab:owner/fleet/" + nixtest.Rev + "?dir=deploy"},
		{locked, "https://example.org/fleet.tar.gz", "https://example.org/fleet.tar.gz?" + hash},
		{path, "tarball+https://example.org/fleet", "tarball+https://example.org/fleet?" + hash},
		{path, "git+https://example.org/fleet", ""},
		{path, "github:owner/fleet", ""},
		{locked, "github:owner/fleet/main", ""},
		{locked, "github:owner/fleet?ref=main", ""},
		{locked, "github:owner", ""},
		{locked, "%zz", ""},
	} {
		got, err := c.l.At(c.place)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s, %v; want %s", c.place, got, err, c.want)
		}
		if err != nil && (!errors.Is(err, ErrUnlocked) || ui.HintOf(err) == "") {
			t.Errorf("%s: %v", c.place, err)
		}
	}
}

// TestExpression: attributes can't break out of the expression, and a fleet
// that is too large for one is cut.
func TestExpression(t *testing.T) {
	e, err := compose([]Attr{{Flake: locked, Path: `a."b\"`}})
	if err != nil || len(e.attrs) != 1 || !strings.Contains(e.text, `output (builtins.elemAt flakes 0)."a"."b\\" else`) {
		t.Errorf("%+v, %v", e, err)
	}
	if got := quote("${x}\"\\\n"); got != `"\${x}\"\\\n"` {
		t.Errorf("quoted %s", got)
	}
	if _, err := compose([]Attr{{Flake: locked, Path: "a b"}}); !errors.Is(err, nix.ErrAttrPath) {
		t.Errorf("malformed: %v", err)
	}
	attrs := make([]Attr, 2000)
	for i := range attrs {
		attrs[i] = attr("machine-with-a-long-name")
	}
	e, err = compose(attrs)
	if n := len(e.attrs); err != nil || len(e.text) > maxExpression || n < 100 || n >= len(attrs) {
		t.Errorf("%d bytes, %d of %d, %v", len(e.text), n, len(attrs), err)
	}
}

// FuzzDecodeEvaluated: whatever nix prints, an output that is taken is one of a
// store.
func FuzzDecodeEvaluated(f *testing.F) {
	unhashed := Locked{URL: "git+file:///r?rev=1"}
	e := expression{attrs: []Attr{attr("a"), {Flake: unhashed, Path: "b"}}, flakes: []Locked{locked, unhashed}, trees: true}
	f.Add([]byte(`{"nix":"2.26.3","trees":["x","y"],"results":[{"drv":"/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a.drv","out":"` +
		nixtest.SystemA + `","output":"out"},{"missing":true}]}`))
	f.Add([]byte(`{"nix":"2.3","results":[{"is":"int"},{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := map[Attr]Output{}
		err := e.decode(data, out)
		for _, o := range out {
			if fleet.ValidateStorePath(o.Path) != nil || fleet.ValidateStorePath(o.Drv) != nil || o.Name == "" {
				t.Errorf("%+v", o)
			}
		}
		if err == nil && len(out) != len(e.attrs) {
			t.Errorf("%d outputs", len(out))
		}
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add([]byte(`{"url":"git+file:///repo/flake?rev=0","locked":{"rev":"0","narHash":"sha256-x","dir":"d"}}`))
	f.Add([]byte(`{"dirtyRevision":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := decodeMetadata(data)
		if err == nil && (l.URL == "" || l.NarHash == "" || strings.ContainsAny(l.URL, "# \n")) {
			t.Errorf("%+v", l)
		}
	})
}

// FuzzBuilt: nothing counts as built but what nix says it built, where it was
// evaluated to be.
func FuzzBuilt(f *testing.F) {
	const drv, dev = "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a.drv", "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a-dev"
	outputs := []Output{{Drv: drv, Name: "out", Path: nixtest.SystemA}, {Drv: drv, Name: "dev", Path: dev}}
	good := []byte(`[{"drvPath":"` + drv + `","outputs":{"out":"` + nixtest.SystemA + `","dev":"` + dev + `"},"startTime":0}]`)
	if err := checkBuilt(good, outputs); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`[{"drvPath":"` + drv + `","outputs":{"out":"` + nixtest.SystemA + `"}},{"drvPath":"` + drv + `","outputs":{"dev":"` + dev + `"}}]`))
	f.Add([]byte(`[{"drvPath":"` + drv + `","outputs":{"out":"` + dev + `","dev":"` + dev + `"}}]`))
	f.Add([]byte(`[{"drvPath":"` + drv + `^out","outputs":{"":"x"}}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := checkBuilt(data, outputs)
		if err != nil {
			if !errors.Is(err, ErrOutPath) && !errors.Is(err, ErrOutput) {
				t.Errorf("no name: %v", err)
			}
			return
		}
		var list []map[string]any
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{drv, nixtest.SystemA, dev} {
			if !strings.Contains(fmt.Sprint(list), want) {
				t.Errorf("%s is nowhere in %q", want, data)
			}
		}
	})
}

// FuzzClosures: a closure that is taken is whole, and has nothing twice.
func FuzzClosures(f *testing.F) {
	const a, b, c = "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a", "/nix/store/m4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-b", "/nix/store/n4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-c"
	info := func(path string, refs ...string) string {
		text, err := json.Marshal(map[string]any{
			"path": path, "narHash": "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "narSize": 120, "registrationTime": 1700000000,
			"references": refs, "valid": true,
		})
		if err != nil {
			f.Fatal(err)
		}
		return string(text)
	}
	good := []byte("[" + info(a, a, b) + "," + info(b, c) + "," + info(c, a) + "]")
	if infos, err := nix.DecodePathInfo(good); err != nil || len(infos) != 3 {
		f.Fatalf("%d paths, %v", len(infos), err)
	}
	f.Add(good)
	f.Add([]byte("[" + info(a, b) + "]"))
	f.Add([]byte("[" + info(a) + "," + info(a, a) + "]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		infos, err := nix.DecodePathInfo(data)
		if err != nil {
			return
		}
		all, err := closures(infos, []string{a})
		if err != nil {
			if !errors.Is(err, ErrOutput) {
				t.Errorf("no name: %v", err)
			}
			return
		}
		cl := all[a]
		has := map[string]bool{}
		for _, p := range cl.Paths {
			if has[p.Path] {
				t.Errorf("%s is there twice", p.Path)
			}
			has[p.Path] = true
		}
		for _, p := range cl.Paths {
			for _, r := range p.References {
				if !has[r] {
					t.Errorf("%s is missing", r)
				}
			}
		}
		if cl.Root.Path != a || !has[a] {
			t.Errorf("the root is %q", cl.Root.Path)
		}
	})
}
