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
	// maxChecked bounds the heads that one look compares, the highest first: a log
	// that was written anew from some record on has none of those above it.
	maxChecked = 64
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

	known map[fleet.LogHead]string
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
// what others countersigned, and what hosts said they were told. Records in
// between are not verified: that is audit verify.
func (o *options) lookAt(ctx context.Context, s *session, echoes map[fleet.LogHead]string) (*logLook, error) {
	mem, err := auditlog.Recall(o.identityDir(s.fleet.ID()))
	if err != nil {
		return nil, err
	}
	shown, err := s.LookAtLog(ctx)
	if errors.Is(err, client.ErrNoLooks) {
		return &logLook{Lost: []lostHead{}}, nil
	}
	if err != nil {
		return nil, err
	}
	known := maps.Clone(echoes)
	if known == nil {
		known = map[fleet.LogHead]string{}
	}
	also := func(h fleet.LogHead, who string) {
		if before := known[h]; before != "" {
			who += "; " + before
		}
		known[h] = who
	}
	for head, who := range s.looksOf(shown.Looks) {
		also(head, who)
	}
	if !mem.Seen.IsZero() {
		also(mem.Seen, "you, "+mem.Time.UTC().Format(time.DateTime))
	}
	gone, err := s.LostHeads()
	if err != nil {
		return nil, err
	}
	for _, h := range gone {
		delete(known, h.LogHead)
	}
	l := &logLook{Head: shown.Head, Lost: []lostHead{}, known: known}
	return l, l.compare(ctx, s)
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

// compare asks for the records that somebody knows, the highest first.
func (l *logLook) compare(ctx context.Context, s *session) error {
	heads := slices.SortedFunc(maps.Keys(l.known), func(a, b fleet.LogHead) int {
		return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(a.Hash, b.Hash))
	})
	heads = heads[:min(len(heads), maxChecked)]
	l.Known = len(heads)
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
				l.Lost = append(l.Lost, lostHead{h, l.known[h]})
			}
		}
	}
	return nil
}

// keep remembers the head, and countersigns it: not where something is lost.
func (l *logLook) keep(ctx context.Context, o *options, s *session, warn io.Writer) error {
	if l.Head.IsZero() || len(l.Lost) > 0 {
		return nil
	}
	dir := o.identityDir(s.fleet.ID())
	mem, err := auditlog.Recall(dir)
	if err != nil {
		return err
	}
	now := o.Now().UTC()
	if mem.Seen == l.Head && !mem.Signed.IsZero() {
		return nil
	}
	due := mem.Signed.IsZero() || now.Sub(mem.Signed) >= signEvery || now.Before(mem.Signed)
	if due {
		switch err := l.countersign(ctx, s, now); {
		case err == nil:
			mem.Signed = now
		case ctx.Err() != nil:
			return err
		default:
			// What was asked for is shown all the same.
			_, _ = fmt.Fprintf(warn, "warning: the event log was not countersigned: %v\n", err)
		}
	}
	mem.Seen, mem.Time = l.Head, now
	return mem.Remember(dir)
}

func (l *logLook) countersign(ctx context.Context, s *session, now time.Time) error {
	key, ok := s.cert.PrivateKey.(crypto.Signer)
	pub, isEd := s.cert.Leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !isEd {
		return errors.New("the operator's key is not ed25519")
	}
	look := fleet.Look{Fleet: s.fleet.ID(), Operator: fleet.OperatorName(s.operator), Head: l.Head, Time: now}
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
}

func (l *logLook) verdict() error {
	if len(l.Lost) == 0 {
		return nil
	}
	return ui.WithHint(errLost, lostHint)
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
