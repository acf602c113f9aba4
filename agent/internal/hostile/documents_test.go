package hostile

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Sources of rows.
const (
	tufArbitrary = "TUF: arbitrary installation; Uptane: arbitrary software"
	tufWrong     = "TUF: wrong software installation"
	tufRollback  = "TUF, Uptane: rollback"
	tufForward   = "TUF: fast-forward"
	tufFreeze    = "TUF: indefinite freeze; Uptane: freeze"
	tufMix       = "TUF: mix-and-match; Uptane: mixed bundles"
	tufKeys      = "TUF: vulnerability to key compromises"
	tufEndless   = "TUF, Uptane: endless data"
	tufSlow      = "TUF, Uptane: slow retrieval"
	tufExtra     = "TUF: extraneous dependencies"
	tufMirror    = "TUF: malicious mirrors preventing updates"
	uptaneDrop   = "Uptane: drop-request"
	uptanePart   = "Uptane: partial bundle installation"
	uptaneRead   = "Uptane: eavesdrop (read updates)"
	uptaneDoS    = "Uptane: denial of service"
	ownSigned    = "signed documents"
	ownLoosening = "loosening is signed"
	ownIdentity  = "host identity"
	ownTime      = "time's floor"
	ownReports   = "reports"
)

// offer has the coordinator offer a generation that somebody signed.
func offer(change func(*fleet.Generation), signers ...func(*host) release.Signer) func(*host) {
	return func(h *host) {
		r := h.make(h.good.ref.Number.Seq+1, "evil", change)
		var keys []release.Signer
		for _, s := range signers {
			keys = append(keys, s(h))
		}
		if len(keys) > 0 {
			r.envelope, r.ref = h.fleet.Seal(r.doc, keys...)
		}
		h.publish(r)
	}
}

func same(*fleet.Generation) {}

func stranger(h *host) release.Signer   { return h.fleet.Stranger }
func releaseKey(h *host) release.Signer { return h.fleet.Release }
func secretsKey(h *host) release.Signer { return h.fleet.Secrets }
func rootKey(h *host) release.Signer    { return h.fleet.RootKeys[0] }
func number(epoch, seq uint64) func(*host) {
	return offer(func(g *fleet.Generation) { g.Number = fleet.Number{Epoch: epoch, Seq: seq} })
}

// twoReleaseKeys has the next trust root ask for two keys of the release role.
func twoReleaseKeys(h *host) {
	h.enrolled()
	second := h.fleet.AddKey(release.RoleRelease)
	keys := h.fleet.Root.Roles[release.RoleRelease]
	keys.Threshold = 2
	h.fleet.Root.Roles[release.RoleRelease] = keys
	h.fleet.NextRoot()
	h.signers = []release.Signer{h.fleet.Release, second}
	h.good = h.confirmed(h.make(4, "two-keys"))
}

// documents are attacks with generations.
func documents() []attack {
	return []attack{
		{
			name: "a generation that nobody signed", source: tufArbitrary, refusal: release.ErrUnknownKey.Code,
			lie: func(h *host) {
				r := h.make(4, "evil")
				r.envelope = h.resign(r.envelope)
				h.publish(r)
			},
		},
		{name: "a generation that a stranger signed", source: tufArbitrary, refusal: release.ErrUnknownKey.Code, lie: offer(same, stranger)},
		{name: "a generation signed by the secrets role", source: tufKeys, refusal: release.ErrUnknownKey.Code, lie: offer(same, secretsKey)},
		{name: "a generation signed by the root role", source: tufKeys, refusal: release.ErrUnknownKey.Code, lie: offer(same, rootKey)},
		{
			name: "a generation altered after it was signed", source: tufArbitrary, refusal: release.ErrSignature.Code,
			lie: func(h *host) {
				r := h.make(4, "evil")
				r.envelope = h.fleet.Rewrite(r.envelope, func(p []byte) []byte {
					return bytes.Replace(p, []byte(`"seq":4`), []byte(`"seq":5`), 1)
				})
				h.publish(r)
			},
		},
		{
			name: "a stranger's signature under a known key id", source: tufKeys, refusal: release.ErrSignature.Code,
			lie: func(h *host) {
				r := h.make(4, "evil")
				forged, _ := h.fleet.Seal(r.doc, renamed{h.fleet.Stranger, h.fleet.Release.KeyID()})
				r.envelope = forged
				h.publish(r)
			},
		},
		{
			name: "release keys below their threshold", source: tufKeys, refusal: release.ErrThreshold.Code,
			before: twoReleaseKeys, lie: offer(same, releaseKey),
		},
		{
			name: "one release key that signs twice", source: tufKeys, refusal: release.ErrDuplicateKey.Code,
			before: twoReleaseKeys, lie: offer(same, releaseKey, releaseKey),
		},
		{
			name: "one release key under two ids", source: tufKeys, refusal: release.ErrThreshold.Code,
			before: twoReleaseKeys,
			lie: offer(same, releaseKey, func(h *host) release.Signer {
				return renamed{h.fleet.Release, strings.ToUpper(h.fleet.Release.KeyID())}
			}),
		},
		{
			name: "a release key and a secrets key for two", source: tufKeys, refusal: release.ErrThreshold.Code,
			before: twoReleaseKeys, lie: offer(same, releaseKey, secretsKey),
		},
		{name: "another machine's generation", source: tufWrong, refusal: release.ErrWrongMachine.Code, lie: offer(func(g *fleet.Generation) { g.Machine = "galena" })},
		{name: "another fleet's generation", source: tufWrong, refusal: release.ErrWrongFleet.Code, lie: offer(func(g *fleet.Generation) { g.Fleet = "other" })},
		{name: "another profile's generation", source: tufWrong, refusal: release.ErrWrongProfile.Code, lie: offer(func(g *fleet.Generation) { g.Profile = "home/eve" })},
		{
			name: "profiles that no signed document names", source: tufExtra, ignored: "not kept",
			lie: func(h *host) {
				for _, p := range []fleet.ProfileName{"home/eve", "home/mallory", "home/trudy"} {
					h.coord.OfferUnsigned(p)
				}
			},
			seen: asksAgain,
			held: func(h *host) {
				h.await("one profile", func(st statusOf) bool { return len(st.Profiles) == 1 })
			},
		},
		{
			name: "an older generation that was once published", source: tufRollback, refusal: release.ErrLowerNumber.Code,
			before: func(h *host) {
				h.enrolled()
				h.older = h.good
				h.good = h.confirmed(h.make(4, "newer"))
			},
			lie: func(h *host) { h.publish(h.older) },
		},
		{name: "an older generation that the host never saw", source: tufRollback, refusal: release.ErrLowerNumber.Code, lie: number(1, 2)},
		{name: "a generation of an older epoch", source: tufRollback, refusal: release.ErrLowerNumber.Code, before: secondEpoch, lie: number(1, 999)},
		{name: "another generation under the number that runs", source: ownSigned, refusal: release.ErrNumberReused.Code, lie: number(1, 3)},
		{name: "a number beyond the cap", source: tufForward, refusal: release.ErrNumberJump.Code, lie: number(1, 3+fleet.MaxNumberJump+1)},
		{name: "the highest number that there is", source: tufForward, refusal: release.ErrNumberJump.Code, lie: number(1, math.MaxUint64)},
		{name: "an epoch that no trust root opened", source: tufForward, refusal: release.ErrWrongEpoch.Code, lie: number(2, 1)},
		{name: "the highest epoch that there is", source: tufForward, refusal: release.ErrWrongEpoch.Code, lie: number(math.MaxUint64, math.MaxUint64)},
		{name: "epoch zero", source: tufRollback, refusal: release.ErrMalformed.Code, lie: number(0, 4)},
		{
			name: "the same generation for ever", source: tufFreeze, refusal: release.ErrExpired.Code,
			before: func(h *host) {
				h.start()
				h.good = h.confirmed(h.make(3, "good", expires(24*time.Hour)))
			},
			lie: func(h *host) { h.later(48 * time.Hour) },
		},
		{
			name: "a generation that expired before it came", source: tufFreeze, refusal: release.ErrExpired.Code,
			lie: offer(func(g *fleet.Generation) {
				g.Issued = g.Issued.Add(-48 * time.Hour)
				g.Expires = g.Issued.Add(24 * time.Hour)
			}),
		},
		{
			name: "nothing is desired any more", source: uptaneDrop, ignored: "keeps what it has",
			lie:  func(h *host) { h.coord.Lie(desired(func(m *response) { m.Profiles = nil })) },
			seen: asksAgain,
		},
	}
}

// mixtures are attacks with parts that do not belong together.
func mixtures() []attack {
	withSecrets := func(h *host) {
		h.start()
		h.older = h.confirmed(h.makeWithSecrets(2, "first", map[string]string{"db/password": "old"}))
		h.good = h.confirmed(h.makeWithSecrets(3, "good", map[string]string{"db/password": "new"}))
	}
	return []attack{
		{
			name: "a generation with the secrets of an older one", source: tufMix, refusal: release.ErrSecretsMismatch.Code, before: withSecrets,
			lie: func(h *host) {
				r := h.makeWithSecrets(4, "evil", map[string]string{"db/password": "newest"})
				r.secrets = h.older.secrets
				h.publish(r)
			},
		},
		{
			name: "a generation without the secrets that it names", source: tufMix, refusal: release.ErrSecretsMismatch.Code, before: withSecrets,
			lie: func(h *host) {
				r := h.makeWithSecrets(4, "evil", map[string]string{"db/password": "newest"})
				r.secrets = nil
				h.publish(r)
			},
		},
		{
			name: "a generation with secrets that it does not name", source: tufMix, refusal: release.ErrSecretsMismatch.Code, before: withSecrets,
			lie: func(h *host) {
				r := h.make(4, "evil")
				r.secrets = h.good.secrets
				h.publish(r)
			},
		},
		{
			name: "a secrets manifest that the release role signed", source: tufKeys, refusal: release.ErrUnknownKey.Code, before: withSecrets,
			lie: func(h *host) {
				key := h.fleet.Secrets
				h.fleet.Secrets = h.fleet.Release
				r := h.makeWithSecrets(4, "evil", map[string]string{"db/password": "newest"})
				h.fleet.Secrets = key
				h.publish(r)
			},
		},
		{
			name: "a secrets manifest of another machine", source: tufMix, refusal: release.ErrSecretsMismatch.Code, before: withSecrets,
			lie: func(h *host) {
				env, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
					Type: fleet.TypeSecrets, Fleet: "test", Machine: "galena", Profile: fleet.System,
					Issued: h.fleet.Issued, Expires: h.fleet.Issued.Add(time.Hour),
				}, h.fleet.Secrets)
				check(h.t, err)
				r := h.make(4, "evil", func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: digest} })
				r.secrets = env
				h.publish(r)
			},
		},
		{
			name: "a secrets manifest offered as a generation", source: ownSigned, refusal: release.ErrMalformed.Code, before: withSecrets,
			lie: func(h *host) { h.coord.Publish(h.good.secrets, nil) },
		},
		{
			name: "a generation offered as a secrets manifest", source: ownSigned, refusal: release.ErrMalformed.Code, before: withSecrets,
			lie: func(h *host) { h.coord.Publish(h.make(4, "evil").envelope, h.good.envelope) },
		},
		{
			name: "a loosening offered as a generation", source: ownSigned, refusal: release.ErrMalformed.Code,
			lie: func(h *host) { h.coord.Publish(h.fleet.SealRetry(h.good.ref.Digest), nil) },
		},
		{
			name: "a trust root offered as a generation", source: ownSigned, refusal: release.ErrMalformed.Code,
			lie: func(h *host) { h.coord.Publish(h.fleet.Roots[0], nil) },
		},
		{
			name: "a loosening signed as if it were a generation", source: ownSigned, refusal: release.ErrMalformed.Code,
			lie: func(h *host) {
				env, _, err := release.Seal(fleet.TypeGeneration, fleet.Loosening{
					Type: fleet.TypeLoosening, Fleet: "test", Machine: "pyrite", Profile: fleet.System, Action: fleet.LoosenRetry,
					Digest: h.good.ref.Digest, Issued: h.fleet.Issued, Expires: h.fleet.Issued.Add(time.Hour),
				}, h.fleet.Release)
				check(h.t, err)
				h.coord.Publish(env, nil)
			},
		},
		{
			name: "secrets that are encrypted to another machine", source: uptaneRead, refusal: fleet.ReasonSecretsFailed, before: withSecrets,
			accepts: true, disk: 64 << 10,
			lie: func(h *host) {
				h.publish(h.makeFor(h.otherRecipient(), 4, "evil", map[string]string{"db/password": "theirs"}))
			},
		},
		{
			name: "one secret's ciphertext in the place of another's", source: tufMix, refusal: fleet.ReasonFetchFailed, before: withSecrets,
			accepts: true, disk: 64 << 10,
			lie: func(h *host) {
				r := h.makeWithSecrets(4, "evil", map[string]string{"a": "first", "b": "other"})
				h.publish(r)
				a, b := r.blobs[1], r.blobs[2]
				h.coord.SetBlob(fleet.DigestOf(a), b)
				h.coord.SetBlob(fleet.DigestOf(b), a)
				h.poke()
			},
		},
		{
			name: "the bundle without one of its secrets", source: uptanePart, refusal: fleet.ReasonFetchFailed, before: withSecrets,
			accepts: true, disk: 64 << 10,
			lie: func(h *host) {
				r := h.makeWithSecrets(4, "evil", map[string]string{"a": "first", "b": "other"})
				r.blobs = r.blobs[:2]
				h.publish(r)
			},
		},
	}
}

// renamed signs under another key's id.
type renamed struct {
	release.Signer
	id string
}

func (r renamed) KeyID() string { return r.id }

// resign replaces the signatures of an envelope by others.
func (h *host) resign(envelope []byte, sigs ...map[string]string) []byte {
	h.t.Helper()
	var env map[string]any
	check(h.t, json.Unmarshal(envelope, &env))
	if sigs == nil {
		sigs = []map[string]string{}
	}
	env["signatures"] = sigs
	b, err := json.Marshal(env)
	check(h.t, err)
	return b
}
