package fleetctl

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// tripwire compares the generations that hosts say they accepted, in reports
// that they signed, with releases/: a stolen release key shows, even where the
// coordinator keeps silent about what it delivered. It is the JSON form, too.
type tripwire struct {
	// Releases says whether there is a releases/ to compare with.
	Releases   bool         `json:"releases"`
	Alarms     []strange    `json:"alarms"`
	Unverified []unverified `json:"unverified"`
	// More counts the alarms that are left out of hosts that have many.
	More int `json:"more"`

	// accepted says that a host accepted something, which there is to compare.
	accepted bool
	w        *workspace
	known    map[fleet.Digest]bool
	// heads of the event log that hosts say they were told.
	heads map[fleet.LogHead]*echo
	// heard are the hosts whose heads are in there.
	heard map[fleet.MachineName]bool
}

// echo is who says that they were told of a head.
type echo struct {
	first string
	more  int
}

// strange is a generation that a host accepted and this checkout does not know.
type strange struct {
	Machine string            `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Number  string            `json:"number"`
	Digest  fleet.Digest      `json:"digest"`
	Release fleet.ReleaseID   `json:"release"`
}

// unverified is a host whose report says nothing, because nobody can tell
// whether the host signed it.
type unverified struct {
	Machine string `json:"machine"`
	Reason  string `json:"reason"`
}

// maxStrange is how many alarms of one host are listed: whoever has the host may
// report what they like.
const maxStrange = 16

// errStrange is what status ends with after an alarm.
var errStrange = fmt.Errorf("%w: hosts accepted generations that this checkout does not know", client.ErrRefused)

const strangeHint = `a stolen key signed them, or this checkout is behind: git pull and look again; if they are still unknown, docs/runbooks.md, "The release key leaked"`

// newTripwire reads releases/, once for all hosts.
func newTripwire(w *workspace) (*tripwire, error) {
	t := &tripwire{Alarms: []strange{}, Unverified: []unverified{}, w: w, known: map[fleet.Digest]bool{}, heads: map[fleet.LogHead]*echo{}, heard: map[fleet.MachineName]bool{}}
	switch _, err := os.Stat(w.Path("releases")); {
	case errors.Is(err, os.ErrNotExist):
		return t, nil
	case err != nil:
		return nil, fmt.Errorf("reading releases: %w", err)
	}
	t.Releases = true
	list, err := w.Releases()
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		for i := range r.Generations {
			t.known[r.Generations[i].Digest] = true
		}
	}
	return t, nil
}

// check looks at one host's report.
func (t *tripwire) check(h *client.Host, envelope []byte) error {
	reported := slices.ContainsFunc(h.Profiles, func(p client.Profile) bool {
		return p.Current.Digest != "" || p.Highest.Digest != ""
	})
	if !t.Releases {
		t.accepted = t.accepted || reported || t.signedFor(h.Machine, envelope)
		return nil
	}
	if len(envelope) == 0 && !reported {
		return nil
	}
	r, err := t.open(h.Machine, envelope)
	if errors.Is(err, repo.ErrCorrupt) {
		return err
	}
	if err != nil {
		t.Unverified = append(t.Unverified, unverified{h.Machine, err.Error()})
		return nil //nolint:nilerr // It is said, and no reason to show less.
	}
	t.hear(r)
	seen := map[fleet.Digest]bool{}
	look := func(p fleet.ProfileName, ref fleet.Ref) {
		if ref.Digest == "" || t.known[ref.Digest] || seen[ref.Digest] {
			return
		}
		seen[ref.Digest] = true
		if len(seen) > maxStrange {
			t.More++
			return
		}
		t.Alarms = append(t.Alarms, strange{h.Machine, p, ref.Number.String(), ref.Digest, ref.Release})
	}
	for _, p := range r.Profiles {
		for _, ref := range append([]fleet.Ref{p.Highest, p.Current, p.Confirmed, p.LastGood}, p.Refused...) {
			look(p.Profile, ref)
		}
	}
	for _, tr := range r.Transitions {
		look(tr.Profile, tr.Ref)
	}
	return nil
}

// signedFor says whether a host's own report has something that it accepted, which the
// coordinator may keep silent about.
func (t *tripwire) signedFor(machine string, envelope []byte) bool {
	r, err := t.open(machine, envelope)
	return err == nil && (len(r.Transitions) > 0 || slices.ContainsFunc(r.Profiles, func(p fleet.ProfileStatus) bool {
		return p.Highest.Digest != "" || p.Current.Digest != ""
	}))
}

// hear takes in which heads a host says it was told. Whoever has a banned host may
// say what they like; which ones are banned, the repository tells.
func (t *tripwire) hear(r *fleet.Report) {
	if _, banned := t.w.banned[r.Machine]; banned || t.heard[r.Machine] {
		return
	}
	t.heard[r.Machine] = true
	said := map[fleet.LogHead]bool{}
	for _, k := range r.LogHeads {
		if said[k.LogHead] || k.Validate() != nil {
			continue
		}
		said[k.LogHead] = true
		switch e := t.heads[k.LogHead]; {
		case e != nil:
			e.more++
		case len(t.heads) < maxEchoes:
			t.heads[k.LogHead] = &echo{first: string(r.Machine)}
		}
	}
}

// echoed says who was told of which heads of the event log.
func (t *tripwire) echoed() map[fleet.LogHead]string {
	out := map[fleet.LogHead]string{}
	for h, e := range t.heads {
		out[h] = e.first
		if e.more > 0 {
			out[h] = fmt.Sprintf("%s and %s", e.first, plural(e.more, "other host"))
		}
	}
	return out
}

// open verifies a report with the key that the repository has of the machine,
// not with one that the coordinator names.
func (t *tripwire) open(machine string, envelope []byte) (*fleet.Report, error) {
	m, err := fleet.ParseMachineName(machine)
	if err != nil {
		return nil, err
	}
	if len(envelope) == 0 {
		return nil, errors.New("the coordinator shows no report that it signed")
	}
	rec, err := t.w.Host(m)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, errors.New("the repository has no report key of it: publish records it, or git pull")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(rec.Report)
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("%w: hosts/%s.json: the report key is no ed25519 key", repo.ErrCorrupt, m)
	}
	r, err := release.OpenReport(envelope, key)
	if err != nil {
		return nil, err
	}
	if r.Machine != m || r.Fleet != t.w.fleet.ID() {
		return nil, fmt.Errorf("its report is of %.64q in fleet %.64q", r.Machine, r.Fleet)
	}
	return r, nil
}

// show prints what somebody has to look at.
func (t *tripwire) show(p *ui.Printer) {
	if !t.Releases && !t.accepted {
		return // Nothing was published yet.
	}
	if !t.Releases {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, "note: there is no releases/ here, so what hosts accepted can't be compared with what was published"))
		return
	}
	for _, u := range t.Unverified {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, fmt.Sprintf("warning: what %s accepted can't be compared with releases/: %s", u.Machine, plainText(u.Reason))))
	}
	for _, a := range t.Alarms {
		p.Printf("%s\n", p.Paint(ui.ToneBad, plainText(fmt.Sprintf("ALARM: %s %s accepted generation %s (%s) of %s, which releases/ does not have",
			a.Machine, a.Profile, a.Number, a.Digest.Short(), cmp.Or(string(a.Release), "no release")))))
	}
	if t.More > 0 {
		p.Printf("%s\n", p.Paint(ui.ToneBad, fmt.Sprintf("ALARM: and %d more of these hosts", t.More)))
	}
}

// plainText drops what would act on a terminal: a report is the host's text.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}

// verdict is what status ends with.
func (t *tripwire) verdict() error {
	if len(t.Alarms) == 0 {
		return nil
	}
	return ui.WithHint(errStrange, strangeHint)
}
