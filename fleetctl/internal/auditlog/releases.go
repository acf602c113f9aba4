package auditlog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Releases compares what a log says of releases with what the fleet's
// repository has: what nobody's repository has was signed with a stolen key.
type Releases struct {
	// Known are the digests of the generations of each release that the
	// repository has, whatever became of it.
	Known map[fleet.ReleaseID][]fleet.Digest
	// Committed are those that the repository says were committed.
	Committed []fleet.ReleaseID

	seen     map[fleet.ReleaseID]bool
	findings []string
}

var (
	// committed is the message of a release-committed record.
	committed = regexp.MustCompile(`^(\S+): generations \d+, .*digests (sha256:[0-9a-f]{64})$`)
	// shortDigest is how other messages name a generation.
	shortDigest = regexp.MustCompile(`\(([0-9a-f]{12})\)`)
)

// Note looks at one record.
func (r *Releases) Note(rec *Record) {
	if r.seen == nil {
		r.seen = map[fleet.ReleaseID]bool{}
	}
	switch rec.Kind {
	case "release-committed":
		m := committed.FindStringSubmatch(rec.Message)
		if m == nil {
			return // Of a coordinator that did not write digests yet.
		}
		id := fleet.ReleaseID(m[1])
		r.seen[id] = true
		digests, ok := r.Known[id]
		switch {
		case !ok:
			r.find(rec, "release %s is not in releases/", id)
		case string(fleet.DigestOfAll(digests)) != m[2]:
			r.find(rec, "release %s has other generations than releases/ says", id)
		}
	case "generation-adopted":
		m := shortDigest.FindStringSubmatch(rec.Message)
		if m != nil && !r.hasShort(m[1]) {
			r.find(rec, "%s runs generation %s, which is not in releases/", rec.Machine, m[1])
		}
	}
}

func (r *Releases) find(rec *Record, format string, args ...any) {
	const most = 1000
	if len(r.findings) < most {
		r.findings = append(r.findings, fmt.Sprintf("record %d (%s): ", rec.Seq, rec.Actor)+fmt.Sprintf(format, args...))
	}
}

func (r *Releases) hasShort(short string) bool {
	for _, all := range r.Known {
		if slices.ContainsFunc(all, func(d fleet.Digest) bool { return strings.HasPrefix(d.Hex(), short) }) {
			return true
		}
	}
	return false
}

// Findings is what somebody has to look at.
func (r *Releases) Findings() []string { return r.findings }

// Missing are releases that the repository says were committed and that a log
// which begins with its first record does not have: the store was lost since, or
// the log is not this fleet's.
func (r *Releases) Missing() []fleet.ReleaseID {
	return slices.DeleteFunc(slices.Clone(r.Committed), func(id fleet.ReleaseID) bool { return r.seen[id] })
}
