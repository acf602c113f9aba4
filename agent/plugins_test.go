package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/plugintest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// pluginHost is a host with short deadlines for plugins, whose log is kept.
func pluginHost(t *testing.T) (*host, *testBuffer) {
	t.Helper()
	h := newHost(t)
	h.config.Plugins = PluginConfig{Start: time.Minute, Call: time.Minute, Build: time.Minute, Idle: 50 * time.Millisecond}
	// Longer than reports are put off, so that why it waits is in one.
	h.config.Retry = Retry{First: 300 * time.Millisecond, Max: 300 * time.Millisecond, Slow: 300 * time.Millisecond}
	log := &testBuffer{}
	h.config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", log.text())
		}
	})
	return h, log
}

// pinned is a generation that needs a driver plugin.
func (h *host) pinned(seq uint64, name, text string, executable []byte) fleet.Generation {
	g := h.fleet.Generation(seq, plugintest.Source(name, text))
	g.Critical = []string{fleet.CriticalPlugins}
	g.Plugins = []fleet.Plugin{plugintest.Pin(name, fleet.PluginDriver, executable)}
	return g
}

func (h *host) offer(g fleet.Generation, blobs ...[]byte) fleet.Ref {
	env, ref := h.fleet.Seal(g)
	h.coord.PublishBeside(g.Profile, env, blobs...)
	return ref
}

// running returns what the good driver's link leads to.
func (h *host) running(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.config.StateDir, pluginStateDir, name, "system"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func TestPluginDriverAndProbe(t *testing.T) {
	h, log := pluginHost(t)
	self := plugintest.Self(t)
	h.start()
	g := h.pinned(1, plugintest.Good, "one", self)
	g.Plugins = append(g.Plugins, plugintest.Pin(plugintest.ProbeSays, fleet.PluginProbe, self))
	g.Probes = []fleet.Probe{{Name: "look", Kind: fleet.ProbePlugin, Plugin: plugintest.ProbeSays, Config: json.RawMessage(`{"verdict":"pass"}`)}}
	first := h.offer(g, self)
	h.coord.WaitState(fleet.StateConfirmed, first)
	if got := h.running(plugintest.Good); !strings.Contains(got, "one") {
		t.Errorf("%q runs", got)
	}

	// The probe's word counts: this one is rolled back, and forgotten by the
	// driver once something newer is accepted.
	g.Number.Seq, g.Source = 2, plugintest.Source(plugintest.Good, "two")
	g.Probes[0].Config = json.RawMessage(`{"verdict":"fail"}`)
	g.Policy.VerifyDeadline = fleet.Duration(time.Second)
	h.offer(g, self)
	h.coord.WaitState(fleet.StateRolledBack, first)
	if got := h.running(plugintest.Good); !strings.Contains(got, "one") {
		t.Errorf("%q runs after the rollback", got)
	}

	// What the host has, it needs no coordinator for; and a restart changes
	// nothing.
	h.crash()
	h.start()
	g.Number.Seq, g.Source = 3, plugintest.Source(plugintest.Good, "three")
	g.Probes[0].Config = json.RawMessage(`{"verdict":"pass"}`)
	g.Policy.VerifyDeadline = fleet.Duration(20 * time.Second)
	third := h.offer(g)
	h.coord.WaitState(fleet.StateConfirmed, third)
	h.coord.Wait("pruning", func() bool {
		left, _ := filepath.Glob(filepath.Join(h.config.StateDir, pluginStateDir, plugintest.Good, "built-*"))
		return len(left) == 2 // What runs and what ran before.
	})
	h.crash()
	if n := log.count("plugin failed"); n > 0 {
		t.Errorf("%d failures of good plugins", n)
	}
	expectNoPlugins(t, plugintest.Good, plugintest.ProbeSays)
}

func TestBadPlugins(t *testing.T) {
	rows := []struct {
		name string
		want fleet.ReasonCode
		say  string
		// change shortens what the row waits for.
		change func(*PluginConfig)
		bytes  []byte
	}{
		{name: plugintest.Crash, want: fleet.ReasonPluginCrashed, say: "ended while it was asked: exit status 3"},
		{name: plugintest.Hang, want: fleet.ReasonPluginHung, say: "did not answer within", change: hurry},
		{name: plugintest.Orphan, want: fleet.ReasonPluginHung, say: "did not answer within", change: hurry},
		{name: plugintest.Endless, want: fleet.ReasonPluginHung, say: "did not answer within", change: hurry},
		{name: plugintest.FloodProgress, want: fleet.ReasonPluginAnswer, say: "messages of progress"},
		{name: plugintest.FloodAnswer, want: fleet.ReasonPluginAnswer, say: "larger than max"},
		{name: plugintest.LiePath, want: fleet.ReasonPluginAnswer, say: `want an absolute path`},
		{name: plugintest.LieAction, want: fleet.ReasonPluginAnswer, say: `want an absolute path`},
		{name: plugintest.Rubbish, want: fleet.ReasonPluginHandshake, say: `Hello`},
		{name: plugintest.Silent, want: fleet.ReasonPluginHandshake, say: "it said nothing within", change: func(c *PluginConfig) { c.Start = 2 * time.Second }},
		{name: plugintest.Gone, want: fleet.ReasonPluginHandshake, say: "it ended at once"},
		{name: plugintest.Elsewhere, want: fleet.ReasonPluginHandshake, say: "not in the directory it was given"},
		{name: plugintest.Plain, want: fleet.ReasonPluginHandshake, say: "no certificate"},
		{name: plugintest.NewContract, want: fleet.ReasonPluginVersion, say: "version of the contract, 2"},
		{name: plugintest.NewLibrary, want: fleet.ReasonPluginVersion, say: "version of go-plugin"},
		{name: "no-program", want: fleet.ReasonPluginNotExecutable, say: "exec format error", bytes: []byte("neither a program nor a script")},
		{name: plugintest.ProbeSays, want: fleet.ReasonPluginAnswer, say: "serves no driver"}, // a probe, pinned as a driver
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	beside := fleet.ProfileName("home/" + me.Username)
	self := plugintest.Self(t)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			h, log := pluginHost(t)
			if row.change != nil {
				row.change(&h.config.Plugins)
			}
			h.start()
			first := h.confirmed(1, "v1")

			executable := row.bytes
			if executable == nil {
				executable = self
			}
			h.offer(h.pinned(2, row.name, "x", executable), executable)
			var why fleet.Reason
			h.coord.Wait("reason "+string(row.want), func() bool {
				for _, r := range h.coord.Reports() {
					for _, p := range r.Profiles {
						if p.Profile == fleet.System && p.Reason.Code == row.want {
							why = p.Reason
							return true
						}
					}
				}
				return false
			})
			if !strings.Contains(why.Message, row.say) || !strings.Contains(why.Message, row.name) || why.Hint == "" {
				t.Errorf("the reason is %+v, want one that says %q of %s", why, row.say, row.name)
			}
			if strings.Contains(why.Message, "\x1b") {
				t.Errorf("control characters in %q", why.Message)
			}
			h.expectServing("v1")

			// Other profiles go on meanwhile, and so does this one with what is
			// published next.
			src, blob := h.service("beside", "")
			g := h.fleet.Generation(1, src)
			g.Profile = beside
			ref := h.offer(g, blob)
			h.coord.WaitStateOf(beside, fleet.StateConfirmed, ref)
			mended, blob := h.generation(3, "v3", "")
			ref = h.offer(mended, blob)
			if got := h.coord.WaitState(fleet.StateConfirmed, ref); got.Current == first {
				t.Errorf("still %+v", got)
			}
			h.crash()
			if log.count("\x1b") > 0 {
				t.Error("control characters in the log")
			}
			expectNoPlugins(t, row.name)
		})
	}
}

// hurry is for plugins that have to be waited for.
func hurry(c *PluginConfig) { c.Build = 2 * time.Second }

// A plugin that says too much is heard in part, and is none the worse for it.
func TestPluginFloodsOutput(t *testing.T) {
	h, log := pluginHost(t)
	self := plugintest.Self(t)
	h.start()
	h.coord.WaitState(fleet.StateConfirmed, h.offer(h.pinned(1, plugintest.FloodOutput, "x", self), self))
	h.crash()
	if n := log.count("plugin says"); n > 2*300 {
		t.Errorf("%d lines of the log are the plugin's", n)
	}
}

func TestBadProbePlugins(t *testing.T) {
	self := plugintest.Self(t)
	for _, row := range []struct{ name, config, say string }{
		{plugintest.ProbeCrash, "", "ended while it was asked: exit status 7"},
		{plugintest.ProbeHang, "", "did not answer within"},
		{plugintest.ProbeMute, "", "no verdict"},
		{plugintest.ProbeSays, `{"error":"out of order"}`, "out of order"},
		{plugintest.ProbeSays, `{"unknown":1}`, "reading config"},
		{plugintest.Good, "", "probe.v1"}, // a driver, pinned as a probe
		{plugintest.Rubbish, "", "handshake"},
	} {
		t.Run(row.name+row.config, func(t *testing.T) {
			h, _ := pluginHost(t)
			h.start()
			first := h.confirmed(1, "v1")
			g, blob := h.generation(2, "v2", "")
			g.Critical = []string{fleet.CriticalPlugins}
			g.Plugins = []fleet.Plugin{plugintest.Pin(row.name, fleet.PluginProbe, self)}
			g.Probes = []fleet.Probe{{
				Name: "look", Kind: fleet.ProbePlugin, Plugin: fleet.PluginName(row.name), Config: json.RawMessage(row.config),
				Timeout: fleet.Duration(10 * time.Second), Interval: fleet.Duration(50 * time.Millisecond),
			}}
			if row.name == plugintest.ProbeHang {
				g.Probes[0].Timeout = fleet.Duration(300 * time.Millisecond)
			}
			g.Policy.VerifyDeadline = fleet.Duration(8 * time.Second)
			h.offer(g, blob, self)
			// It can't be told whether the generation works: by policy it is
			// rolled back, and what the plugin did is why.
			h.coord.WaitState(fleet.StateRolledBack, first)
			said := ""
			for _, tr := range h.coord.Transitions() {
				said += tr.Reason.Message + "\n"
			}
			if !strings.Contains(said, "look") || !strings.Contains(said, row.say) && !strings.Contains(said, "started again") {
				t.Errorf("want %q; reasons:\n%s", row.say, said)
			}
			h.expectServing("v1")
			h.crash()
			expectNoPlugins(t, row.name)
		})
	}
}

// An executable that is swapped on the disk is never run: that is found out,
// said, and it is fetched again.
func TestPluginSwapped(t *testing.T) {
	self := plugintest.Self(t)
	t.Run("before it builds", func(t *testing.T) {
		h, log := pluginHost(t)
		h.start()
		g := h.pinned(1, plugintest.Good, "one", self)
		h.coord.WaitState(fleet.StateConfirmed, h.offer(g, self))
		h.crash()
		stored, evil := h.stored(self), filepath.Join(h.config.StateDir, "evil")
		if err := os.Remove(stored); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(stored, []byte("#!/bin/sh\ntouch "+evil+"\n"), 0o500); err != nil {
			t.Fatal(err)
		}
		h.start()
		g.Number.Seq, g.Source = 2, plugintest.Source(plugintest.Good, "two")
		h.coord.WaitState(fleet.StateConfirmed, h.offer(g, self))
		expectSwapped(t, log, evil)
	})
	t.Run("before it probes", func(t *testing.T) {
		h, log := pluginHost(t)
		h.start()
		stored, evil := h.stored(self), filepath.Join(h.config.StateDir, "evil")
		// The activation itself does it.
		g, blob := h.generation(1, "v1", fmt.Sprintf("printf '#!/bin/sh\ntouch %s\n' > %s.new\nchmod 0500 %s.new\nmv -f %s.new %s\n",
			evil, stored, stored, stored, stored))
		g.Critical = []string{fleet.CriticalPlugins}
		g.Plugins = []fleet.Plugin{plugintest.Pin(plugintest.ProbeSays, fleet.PluginProbe, self)}
		g.Probes = append(g.Probes, fleet.Probe{
			Name: "look", Kind: fleet.ProbePlugin, Plugin: plugintest.ProbeSays, Config: json.RawMessage(`{"verdict":"pass"}`),
			Interval: fleet.Duration(50 * time.Millisecond),
		})
		h.coord.WaitState(fleet.StateConfirmed, h.offer(g, blob, self))
		expectSwapped(t, log, evil)
	})
}

// stored is where the host keeps an executable.
func (h *host) stored(executable []byte) string {
	return filepath.Join(h.config.StateDir, pluginsDir, fleet.DigestOf(executable).Hex())
}

func expectSwapped(t *testing.T, log *testBuffer, evil string) {
	t.Helper()
	if log.count(string(fleet.ReasonPluginChecksum)) == 0 {
		t.Error("nothing was said about the swapped executable")
	}
	if _, err := os.Stat(evil); err == nil {
		t.Error("the swapped executable ran")
	}
}

// expectNoPlugins checks that soon no process of these names is a child of this
// one: what was killed takes a moment to go.
func expectNoPlugins(t *testing.T, names ...string) {
	t.Helper()
	left := pluginsLeft(t, names)
	for limit := time.Now().Add(5 * time.Second); left != "" && time.Now().Before(limit); left = pluginsLeft(t, names) {
		time.Sleep(10 * time.Millisecond) // polls; nothing depends on its length
	}
	if left != "" {
		t.Error(left)
	}
}

func pluginsLeft(t *testing.T, names []string) (left string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return ""
	}
	me := fmt.Sprint(os.Getpid())
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // It ended.
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		cmd, err := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if err != nil || len(fields) < 2 || fields[1] != me {
			continue
		}
		if arg0, _, _ := strings.Cut(string(cmd), "\x00"); slices.Contains(names, arg0) {
			left += fmt.Sprintf("process %s of plugin %s is left: %s\n", filepath.Base(filepath.Dir(stat)), arg0, b)
		}
	}
	return left
}
