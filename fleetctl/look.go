package fleetctl

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/auditlog"
	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// maxChecked bounds the heads of hosts that one look compares, picked at random:
	// by number, a coordinator that tells them others could choose for us. What
	// operators saw is compared in any case.
	maxChecked = 64
	// maxWalked bounds the records that one look reads, to see that the head which
	// is countersigned follows on what was seen before. What is left is said, and
	// read by the next looks, or by audit heads, which reads all.
	maxWalked = 10_000
	// lookTimeouts bounds a look of status, in timeouts of one call: what else was
	// asked for is not to wait for a coordinator that shows its log slowly.
	lookTimeouts = 3
	// maxEchoes bounds the heads of hosts' reports that are gathered.
	maxEchoes = 100_000
	// signEvery keeps those whose key wants a touch from touching it each time.
	signEvery = time.Hour
)

// logLook is what a look at the event log found, and its JSON form.
type logLook struct {
	// Head is zero where the coordinator shows none.
	Head fleet.LogHead `json:"head"`
	// Known counts the heads that were compared.
	Known int `json:"known"`
	// Lost are those that the log does not have.
	Lost []lostHead `json:"lost"`

	// Unread counts the newest records that were not read.
	Unread uint64 `json:"unread"`

	// Failed is why not all was looked at; empty where it was.
	Failed string `json:"failed,omitempty"`

	err   error
	mem   auditlog.Memory // what was seen before
	known map[fleet.LogHead]string
	// seen are the heads that operators vouch for.
	seen map[fleet.LogHead]bool
	// reached is the newest head that is known to follow on what was seen.
	reached fleet.LogHead
}

// lookBounds bound one look.
type lookBounds struct {
	echoes  int           // heads of hosts
	records uint64        // to be read
	time    time.Duration // 0 for none
}

type lostHead struct {
	fleet.LogHead
	// Who knows it.
	Who string `json:"who"`
}

// errLost is what status ends with after an alarm.
var errLost = fmt.Errorf("%w: the coordinator's event log is not the one that was seen", client.ErrRefused)

const lostHint = `if the coordinator restored a backup, or lost its store: "fleetctl audit accept --reason TEXT"; else docs/runbooks.md, "The event log was written anew"`

// lookAt compares the coordinator's event log with what this operator saw of it,
// what others countersigned, and what hosts said they were told. Records from before what this operator saw last are not verified: that is
// audit verify. A look that failed says so: what else was asked for is shown.
func (o *options) lookAt(ctx context.Context, s *session, echoes map[fleet.LogHead]string, most lookBounds) *logLook {
	l := &logLook{Lost: []lostHead{}, known: map[fleet.LogHead]string{}, seen: map[fleet.LogHead]bool{}}
	maps.Copy(l.known, echoes)
	// No deadline, of which the coordinator would be told, and which it could be the
	// first to notice.
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	errSlow := errors.New("too slow")
	if most.time > 0 {
		defer time.AfterFunc(most.time, func() { end(errSlow) }).Stop()
	}
	l.err = l.look(ctx, o, s, most)
	if l.err != nil && errors.Is(context.Cause(ctx), errSlow) {
		l.err = ui.WithHint(fmt.Errorf("%w: looking at the event log took longer than %s", client.ErrUnreachable, most.time),
			"the rest is as it says; a larger --timeout gives it more time, fleetctl audit heads all that it takes")
	}
	if l.err != nil {
		l.Failed = l.err.Error()
	}
	return l
}

func (l *logLook) look(ctx context.Context, o *options, s *session, most lookBounds) (err error) {
	if l.mem, err = auditlog.Recall(o.identityDir(s.fleet.ID())); err != nil {
		return err
	}
	shown, err := s.LookAtLog(ctx)
	older := errors.Is(err, client.ErrNoLooks)
	if err != nil && !older {
		return err
	}
	l.Head = shown.Head
	also := func(h fleet.LogHead, who string) {
		if before := l.known[h]; before != "" {
			who += "; " + before
		}
		l.known[h], l.seen[h] = who, true
	}
	for head, who := range s.looksOf(shown.Looks) {
		also(head, who)
	}
	if !l.mem.Seen.IsZero() {
		also(l.mem.Seen, "you, "+l.mem.Time.UTC().Format(time.DateTime))
	}
	gone, err := s.LostHeads()
	if err != nil {
		return err
	}
	for _, h := range gone {
		delete(l.known, h.LogHead)
	}
	if older {
		// It showed its log before, so that it is no older one.
		for h, who := range l.known {
			l.Lost = append(l.Lost, lostHead{h, who})
		}
		return nil
	}
	if err := l.compare(ctx, s, most.echoes); err != nil {
		return err
	}
	return l.walk(ctx, s, most.records)
}

// looksOf verifies countersignatures with the operators' recorded keys. What
// can't be verified says nothing.
func (s *session) looksOf(envelopes [][]byte) map[fleet.LogHead]string {
	keys := map[fleet.OperatorName]ed25519.PublicKey{}
	for i := range s.operators {
		o := &s.operators[i]
		leaf := o.Leaf()
		if leaf == nil {
			continue
		}
		pub, ok := leaf.PublicKey.(ed25519.PublicKey)
		if fingerprint, err := pki.KeyFingerprint(leaf.PublicKey); ok && err == nil && fingerprint == o.Key {
			keys[o.Name] = pub
		}
	}
	if pub, ok := s.cert.Leaf.PublicKey.(ed25519.PublicKey); ok {
		keys[fleet.OperatorName(s.operator)] = pub
	}
	out := map[fleet.LogHead]string{}
	for _, env := range envelopes {
		for name, pub := range keys {
			l, err := release.OpenLook(env, pub)
			if err == nil && l.Operator == name && l.Fleet == s.fleet.ID() {
				out[l.Head] = fmt.Sprintf("operator %s, %s", name, l.Time.UTC().Format(time.DateTime))
				break
			}
		}
	}
	return out
}

// walk reads the records from what this operator saw last to the head, or at most
// so many: a coordinator could keep those that are known, and go on behind them
// with others.
func (l *logLook) walk(ctx context.Context, s *session, most uint64) error {
	seen := l.mem.Seen
	l.reached = l.Head
	if seen.IsZero() || l.lostToOperators() || l.known[seen] == "" || l.Head.Seq <= seen.Seq {
		return nil
	}
	l.reached = seen
	last := l.Head.Seq
	v := &auditlog.Verifier{Known: []auditlog.Head{{Seq: seen.Seq, Hash: seen.Hash}}}
	if l.Unread = last - seen.Seq; l.Unread > most {
		last = seen.Seq + most
	} else {
		v.Known = append(v.Known, auditlog.Head{Seq: last, Hash: l.Head.Hash})
	}
	errEnough := errors.New("enough")
	err := s.Export(ctx, seen.Seq, func(record []byte) error {
		if err := v.Add(record); err != nil {
			return err
		}
		if v.Head().Seq >= last {
			return errEnough
		}
		return nil
	})
	end := fleet.LogHead{Seq: v.Head().Seq, Hash: v.Head().Hash}
	switch {
	// All of it: a coordinator may begin its answer wherever it likes.
	case errors.Is(err, errEnough) && v.Begun() == seen.Seq && (end == l.Head || last < l.Head.Seq):
		l.reached, l.Unread = end, l.Head.Seq-last
		return nil
	case err == nil, errors.Is(err, errEnough), errors.Is(err, auditlog.ErrBroken), errors.Is(err, auditlog.ErrRecord):
		l.Lost = append(l.Lost, lostHead{seen, l.known[seen]})
		return nil
	}
	return err
}

// compare asks for the records that somebody knows, and for the one that the
// coordinator itself says is its last.
func (l *logLook) compare(ctx context.Context, s *session, most int) error {
	var heads, echoed []fleet.LogHead
	for h := range l.known {
		if l.seen[h] {
			heads = append(heads, h)
		} else {
			echoed = append(echoed, h)
		}
	}
	rand.Shuffle(len(echoed), func(i, j int) { echoed[i], echoed[j] = echoed[j], echoed[i] })
	heads = append(heads, echoed[:min(len(echoed), most)]...)
	slices.SortFunc(heads, func(a, b fleet.LogHead) int {
		return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(a.Hash, b.Hash))
	})
	l.Known = len(heads)
	if !l.Head.IsZero() && !l.seen[l.Head] {
		l.seen[l.Head] = true
		heads = append(heads, l.Head)
	}
	for some := range slices.Chunk(heads, client.MaxLookRecords) {
		seqs := make([]uint64, len(some))
		for i, h := range some {
			seqs[i] = h.Seq
		}
		shown, err := s.LookAtLog(ctx, seqs...)
		if err != nil {
			return err
		}
		for i, h := range some {
			// The head first: a log that ends before it has no such record, whatever
			// it shows.
			if h.Seq > shown.Head.Seq || auditlog.HashOf(shown.Records[i]) != h.Hash {
				l.Lost = append(l.Lost, lostHead{h, cmp.Or(l.known[h], "the coordinator itself, just now")})
			}
		}
	}
	return nil
}

// lostToOperators says whether something is lost that an operator saw.
func (l *logLook) lostToOperators() bool {
	return slices.ContainsFunc(l.Lost, func(h lostHead) bool { return l.seen[h.LogHead] })
}

// keep remembers the head, or how far it was read, and countersigns it: not where something is lost that
// an operator saw. What only a host says may be that host's lie.
func (l *logLook) keep(ctx context.Context, o *options, s *session, warn io.Writer) error {
	if l.Failed != "" || l.Head.IsZero() || l.lostToOperators() {
		return nil
	}
	before, now := l.mem, o.Now().UTC()
	if before.SignedSeq == l.reached.Seq && before.Seen == l.reached {
		return nil
	}
	signed := false
	if before.Signed.IsZero() || now.Sub(before.Signed) >= signEvery || now.Before(before.Signed) {
		switch err := l.countersign(ctx, s, now); {
		case err == nil:
			signed = true
		case ctx.Err() != nil:
			return err
		default:
			// What was asked for is shown all the same.
			_, _ = fmt.Fprintf(warn, "warning: the event log was not countersigned: %v\n", err)
		}
	}
	return auditlog.Remember(o.identityDir(s.fleet.ID()), func(m *auditlog.Memory) {
		if signed {
			m.Signed, m.SignedSeq = now, l.reached.Seq
		}
		// Another look may have come later, and seen more.
		if m.Seen == before.Seen {
			m.Seen, m.Time = l.reached, now
		}
	})
}

func (l *logLook) countersign(ctx context.Context, s *session, now time.Time) error {
	key, ok := s.cert.PrivateKey.(crypto.Signer)
	pub, isEd := s.cert.Leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !isEd {
		return errors.New("the operator's key is not ed25519")
	}
	look := fleet.Look{Fleet: s.fleet.ID(), Operator: fleet.OperatorName(s.operator), Head: l.reached, Time: now}
	env, err := release.SealLook(look, certSigner{key, release.KeyID(pub)})
	if err != nil {
		return err
	}
	return s.Countersign(ctx, env)
}

// certSigner signs with the key of an operator's certificate, which may be in an
// ssh-agent. What TLS signs begins with 64 spaces (RFC 8446, 4.4.3), and what is
// signed here with "DSSEv1": neither passes for the other.
type certSigner struct {
	key crypto.Signer
	id  string
}

func (c certSigner) KeyID() string { return c.id }
func (c certSigner) Sign(msg []byte) ([]byte, error) {
	return c.key.Sign(nil, msg, crypto.Hash(0)) //nolint:wrapcheck // Its caller says what for.
}

// maxLostShown is how many of the lost heads are listed.
const maxLostShown = 8

func (l *logLook) show(p *ui.Printer) {
	for _, h := range l.Lost[:min(len(l.Lost), maxLostShown)] {
		p.Printf("%s\n", p.Paint(ui.ToneBad, plainText(fmt.Sprintf("ALARM: the event log, which ends with %d, does not have record %d:%.12s, known to %s", l.Head.Seq, h.Seq, h.Hash, h.Who))))
	}
	if more := len(l.Lost) - maxLostShown; more > 0 {
		p.Printf("%s\n", p.Paint(ui.ToneBad, fmt.Sprintf("ALARM: and %d more records", more)))
	}
	if l.Unread > 0 && l.Failed == "" && len(l.Lost) == 0 {
		p.Printf("The newest %d records of the event log were not read: \"fleetctl audit heads\" reads all, each status %d.\n", l.Unread, maxWalked)
	}
}

func (l *logLook) verdict() error {
	if len(l.Lost) == 0 {
		return l.err
	}
	return errors.Join(ui.WithHint(errLost, lostHint), l.err)
}

// accept records that what is lost is lost for a reason.
func (l *logLook) accept(w *workspace, by, reason string, now time.Time) error {
	var lost []repo.LostHead
	for _, h := range l.Lost {
		lost = append(lost, repo.LostHead{LogHead: h.LogHead, By: by, Time: now.UTC().Truncate(time.Second), Reason: reason})
	}
	if len(lost) == 0 {
		return nil
	}
	return w.AddLostHeads(lost)
}
