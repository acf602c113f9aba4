package hostile

import (
	"bufio"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// patient is when a test gives up.
const patient = 2 * time.Minute

// host is a machine whose agent is a process, and its fleet.
type host struct {
	t     *testing.T
	fleet *agenttest.Fleet
	coord *agenttest.Coordinator
	setup setup
	// good is what runs before the attack; older and oldest ran before it.
	good, older, oldest generation
	// epoch of what is made; 0: the first.
	epoch uint64
	// signers of what is made; default: the release key.
	signers []release.Signer
	// freshness signs what is the newest, where the fleet has it stated.
	freshness release.Signer

	// honest is the coordinator's own certificate where it shows another, releases
	// end what it holds up.
	honest   tls.Certificate
	releases []func()

	agent  *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	log    string
}

// generation is one as it was signed, with what it needs.
type generation struct {
	envelope, secrets []byte
	blobs             [][]byte
	ref               fleet.Ref
	doc               fleet.Generation
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newHost makes a host whose agent does not run yet.
func newHost(t *testing.T) *host {
	t.Helper()
	f := agenttest.NewFleet(t)
	// Short, for the path of the control socket.
	dir, err := os.MkdirTemp("", "fh")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.Executable()
	check(t, err)
	h := &host{t: t, fleet: f, coord: agenttest.NewCoordinator(f), log: filepath.Join(dir, "log")}
	h.setup = setup{Dir: dir, Join: f.Join(h.coord.Address).String(), Window: 500 * time.Millisecond, Exe: exe}
	t.Cleanup(func() {
		h.kill()
		if b, err := os.ReadFile(h.log); err == nil && t.Failed() {
			t.Logf("the agent's log:\n%s", b[max(0, len(b)-16<<10):])
		}
	})
	return h
}

// start starts the agent.
func (h *host) start() {
	h.t.Helper()
	encoded, err := json.Marshal(h.setup)
	check(h.t, err)
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(h.t, err)
	defer func() { _ = log.Close() }()
	h.agent = exec.Command(h.setup.Exe, beAgent, string(encoded))
	h.agent.Stderr = log
	h.stdin, err = h.agent.StdinPipe()
	check(h.t, err)
	stdout, err := h.agent.StdoutPipe()
	check(h.t, err)
	h.stdout = bufio.NewReader(stdout)
	check(h.t, h.agent.Start())
}

// kill ends the agent as a power cut would.
func (h *host) kill() {
	if h.agent == nil {
		return
	}
	_ = h.agent.Process.Kill()
	_ = h.agent.Wait() // It was killed.
	h.agent = nil
}

// restart kills the agent and starts another one on what is left.
func (h *host) restart() {
	h.t.Helper()
	h.kill()
	h.start()
}

// heap is the largest size that the agent's heap has had.
func (h *host) heap() uint64 {
	h.t.Helper()
	_, err := fmt.Fprintln(h.stdin)
	check(h.t, err)
	line, err := h.stdout.ReadString('\n')
	check(h.t, err)
	n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	check(h.t, err)
	return n
}

// disk is how many bytes are in the agent's directories, its log aside.
func (h *host) disk() (n int64) {
	h.t.Helper()
	err := filepath.WalkDir(h.setup.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == h.log {
			return ignoreMissing(err)
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return ignoreMissing(err)
	})
	check(h.t, err)
	return n
}

// ignoreMissing is for files that the agent removes meanwhile.
func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// journal is what the agent's journal says of the system profile.
func (h *host) journal() (journal.State, journal.ProfileState) {
	h.t.Helper()
	st, err := journal.Read(h.setup.state())
	check(h.t, err)
	return st, st.Profile(fleet.System)
}

// ran is what activations have written, one line each.
func (h *host) ran() string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.setup.Dir, "bundle", "state", "system", "ran"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(b)
}

// status is what the agent says on its socket.
func (h *host) status() (control.Status, error) {
	c, err := control.Dial(h.setup.run())
	if err != nil {
		return control.Status{}, err
	}
	defer func() { _ = c.Close() }()
	return c.Status(h.t.Context())
}

// await polls the agent's status until ok.
func (h *host) await(what string, ok func(control.Status) bool) {
	h.t.Helper()
	var last control.Status
	for limit := time.Now().Add(patient); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		st, err := h.status()
		if err == nil && ok(st) {
			return
		}
		last = st
	}
	h.t.Fatalf("waited in vain for %s; the status is %+v", what, last)
}

// says whether the status gives a reason, for the profile or for the
// coordinator.
func says(st control.Status, code fleet.ReasonCode) bool {
	for _, p := range st.Profiles {
		if p.Profile == fleet.System && p.Reason.Code == code && p.Reason.Hint != "" {
			return true
		}
	}
	return st.Coordinator.Code == code && st.Coordinator.Hint != ""
}

// bundle is a source whose activation writes down that it ran.
func (h *host) bundle(version string) (fleet.Source, []byte) {
	return h.fleet.Bundle(map[string]string{
		"activate": "#!/bin/sh\nset -e\necho " + version + " >> \"$FLEET_STATE/ran\"\n", "version": version,
	})
}

// make signs generation seq, after change.
func (h *host) make(seq uint64, version string, change ...func(*fleet.Generation)) generation {
	h.t.Helper()
	src, blob := h.bundle(version)
	r := generation{doc: h.fleet.Generation(seq, src), blobs: [][]byte{blob}}
	r.doc.Number.Epoch = max(h.epoch, 1)
	r.doc.Expires = r.doc.Issued.Add(30 * 24 * time.Hour)
	for _, c := range change {
		c(&r.doc)
	}
	r.envelope, r.ref = h.fleet.Seal(r.doc, h.signers...)
	return r
}

func expires(after time.Duration) func(*fleet.Generation) {
	return func(g *fleet.Generation) { g.Expires = g.Issued.Add(after) }
}

// makeWithSecrets is make with secrets for this machine.
func (h *host) makeWithSecrets(seq uint64, version string, secrets map[string]string) generation {
	h.t.Helper()
	h.coord.Wait("enrolment", func() bool { return h.coord.HostKeys().Age != "" })
	own, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	check(h.t, err)
	return h.makeFor(own, seq, version, secrets)
}

// makeFor is make with secrets for a recipient, sorted by name behind the bundle.
func (h *host) makeFor(to age.Recipient, seq uint64, version string, secrets map[string]string) generation {
	h.t.Helper()
	env, ref, blobs := h.fleet.SealSecrets(to, secrets)
	r := h.make(seq, version, func(g *fleet.Generation) { g.Secrets = ref })
	r.secrets, r.blobs = env, append(r.blobs, blobs...)
	return r
}

// otherRecipient is another machine's key.
func (h *host) otherRecipient() age.Recipient {
	h.t.Helper()
	id, err := age.GenerateX25519Identity()
	check(h.t, err)
	return id.Recipient()
}

// publish has the coordinator desire a release.
func (h *host) publish(r generation) {
	h.coord.Publish(r.envelope, r.secrets, r.blobs...)
}

// confirmed publishes a release, and waits until the host runs it.
func (h *host) confirmed(r generation) generation {
	h.t.Helper()
	h.publish(r)
	h.coord.WaitState(fleet.StateConfirmed, r.ref)
	return r
}

// enrolled starts the agent, and brings it to its first release, number 3.
func (h *host) enrolled() {
	h.t.Helper()
	h.start()
	h.good = h.confirmed(h.make(3, "good"))
}

// later has the host's clock go on, and its agent start anew.
func (h *host) later(d time.Duration) {
	h.t.Helper()
	h.setup.Clock += d
	h.restart()
}

// poke has the host ask what is desired.
func (h *host) poke() { h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED) }

// asksAgain waits until the host has asked what is desired, and acted on it:
// then it asks once more.
func asksAgain(h *host) {
	h.t.Helper()
	for range 2 {
		n := h.coord.Calls("GetDesired")
		h.coord.Wait("a question", func() bool {
			h.poke()
			return h.coord.Calls("GetDesired") > n
		})
	}
}

// strangerKey is the stranger's key as a trust root would list it.
func (h *host) strangerKey() (string, release.Key) {
	h.t.Helper()
	key, err := pki.NewKey()
	check(h.t, err)
	h.fleet.Stranger = release.NewSigner(key)
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		h.t.Fatal("no public key")
	}
	return release.NewKey(pub)
}
