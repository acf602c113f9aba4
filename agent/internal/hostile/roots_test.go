package hostile

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// root is a copy of the newest trust root, after change, signed by signers;
// none: the fleet's root keys.
func (h *host) root(change func(*release.Root), signers ...release.Signer) []byte {
	h.t.Helper()
	r := h.fleet.Root
	r.Keys, r.Roles = maps.Clone(r.Keys), maps.Clone(r.Roles)
	r.Version++
	change(&r)
	if len(signers) == 0 {
		signers = h.fleet.RootKeys
	}
	env, _, err := release.Seal(fleet.TypeRoot, r, signers...)
	check(h.t, err)
	return env
}

// takeOver fills a role with the stranger's key alone.
func (h *host) takeOver(roles ...release.RoleName) func(*release.Root) {
	return func(r *release.Root) {
		id, k := h.strangerKey()
		r.Keys[id] = k
		for _, role := range roles {
			r.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
		}
	}
}

// handOut has the coordinator hand out trust roots, and a generation that only
// they would allow.
func handOut(roots func(*host) [][]byte) func(*host) {
	return func(h *host) {
		evil, envelopes := h.make(h.good.ref.Number.Seq+1, "evil"), roots(h)
		evil.envelope, _ = h.fleet.Seal(evil.doc, h.fleet.Stranger)
		h.publish(evil)
		h.coord.Lie(desired(func(m *response) { m.Roots = envelopes }))
		h.poke()
	}
}

func one(root func(*host) []byte) func(*host) {
	return handOut(func(h *host) [][]byte { return [][]byte{root(h)} })
}

// twoRootKeys has two keys of the root role, both needed.
func twoRootKeys(h *host) {
	h.enrolled()
	second := h.fleet.AddKey(release.RoleRoot)
	keys := h.fleet.Root.Roles[release.RoleRoot]
	keys.Threshold = 2
	h.fleet.Root.Roles[release.RoleRoot] = keys
	h.fleet.RootKeys = append(h.fleet.RootKeys, second)
	h.fleet.NextRoot()
	h.good = h.confirmed(h.make(4, "two-root-keys"))
}

// secondEpoch has the fleet in its second epoch.
func secondEpoch(h *host) {
	h.enrolled()
	h.fleet.Root.Epoch, h.epoch = 2, 2
	h.fleet.NextRoot()
	h.good = h.confirmed(h.make(3, "second-epoch"))
}

// roots are attacks with trust roots.
func roots() []attack {
	all := []release.RoleName{release.RoleRoot, release.RoleRelease, release.RoleSecrets, release.RoleApprover}
	stolen := func(name, source string, refusal fleet.ReasonCode, before func(*host), root func(*host) []byte) attack {
		return attack{name: name, source: source, refusal: refusal, before: before, lie: one(root)}
	}
	changed := func(name string, refusal fleet.ReasonCode, change func(*host, *release.Root)) attack {
		return stolen(name, ownSigned, refusal, nil, func(h *host) []byte {
			return h.root(func(r *release.Root) { change(h, r) })
		})
	}
	return []attack{
		stolen("a trust root that only its own keys signed", tufKeys, release.ErrUnknownKey.Code, nil, func(h *host) []byte {
			return h.root(h.takeOver(all...), h.fleet.Stranger)
		}),
		stolen("a trust root that only the old keys signed", tufKeys, release.ErrUnknownKey.Code, nil, func(h *host) []byte {
			return h.root(h.takeOver(release.RoleRoot))
		}),
		stolen("a trust root signed by the release role", tufKeys, release.ErrUnknownKey.Code, nil, func(h *host) []byte {
			return h.root(h.takeOver(release.RoleRelease), h.fleet.Release)
		}),
		stolen("root keys below their threshold", tufKeys, release.ErrThreshold.Code, twoRootKeys, func(h *host) []byte {
			return h.root(h.takeOver(release.RoleRelease), h.fleet.RootKeys[0])
		}),
		stolen("one root key that signs twice", tufKeys, release.ErrDuplicateKey.Code, twoRootKeys, func(h *host) []byte {
			return h.root(h.takeOver(release.RoleRelease), h.fleet.RootKeys[0], h.fleet.RootKeys[0])
		}),
		stolen("a threshold lowered by fewer keys than it asks for", tufKeys, release.ErrThreshold.Code, twoRootKeys, func(h *host) []byte {
			return h.root(func(r *release.Root) {
				keys := r.Roles[release.RoleRoot]
				keys.Threshold = 1
				r.Roles[release.RoleRoot] = keys
			}, h.fleet.RootKeys[1])
		}),
		changed("a trust root with one key under two ids", release.ErrDuplicateKey.Code, func(h *host, r *release.Root) {
			r.Keys["0000"] = r.Keys[h.fleet.Release.KeyID()]
		}),
		changed("a trust root with one key twice in a role", release.ErrDuplicateKey.Code, func(h *host, r *release.Root) {
			id := h.fleet.Release.KeyID()
			r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 2, KeyIDs: []string{id, id}}
		}),
		changed("a trust root that asks for no signature", release.ErrMalformed.Code, func(h *host, r *release.Root) {
			r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 0, KeyIDs: []string{h.fleet.Release.KeyID()}}
		}),
		changed("a trust root without a role", release.ErrMalformed.Code, func(_ *host, r *release.Root) { delete(r.Roles, release.RoleSecrets) }),
		changed("a trust root of another fleet", release.ErrWrongFleet.Code, func(_ *host, r *release.Root) { r.Fleet = "other" }),
		changed("a trust root of an older epoch", release.ErrMalformed.Code, func(_ *host, r *release.Root) { r.Epoch = 0 }),
		changed("a trust root with an unknown critical rule", release.ErrCritical.Code, func(_ *host, r *release.Root) { r.Critical = []string{"witnesses"} }),
		changed("a skipped trust root", release.ErrRootVersion.Code, func(_ *host, r *release.Root) { r.Version++ }),
		changed("the highest version of a trust root", release.ErrRootVersion.Code, func(_ *host, r *release.Root) { r.Version = 1<<64 - 1 }),
		changed("another trust root of the same version", release.ErrRootVersion.Code, func(h *host, r *release.Root) {
			r.Version--
			h.takeOver(release.RoleRelease)(r)
		}),
		stolen("an older trust root, changed", tufRollback, release.ErrRootVersion.Code, twoRootKeys, func(h *host) []byte {
			return h.root(func(r *release.Root) {
				r.Version = 1
				h.takeOver(release.RoleRelease)(r)
			})
		}),
		stolen("an epoch that goes back", tufRollback, release.ErrWrongEpoch.Code, secondEpoch, func(h *host) []byte {
			return h.root(func(r *release.Root) { r.Epoch = 1 })
		}),
		{
			name: "trust roots from the first on, again", source: tufRollback, ignored: "passed over", before: twoRootKeys,
			lie:  func(h *host) { h.coord.Lie(desired(func(m *response) { m.Roots = h.fleet.Roots })) },
			seen: asksAgain,
		},
		{
			name: "a trust root with a CA that is none", source: ownIdentity, refusal: release.ErrMalformed.Code,
			lie: one(func(h *host) []byte { return h.root(func(r *release.Root) { r.CAs = [][]byte{[]byte("none")} }) }),
		},
		{
			name: "ten thousand trust roots that are none", source: tufEndless, refusal: release.ErrMalformed.Code,
			lie: handOut(func(*host) [][]byte { return slices.Repeat([][]byte{[]byte("{}")}, 10_000) }),
		},
		{
			name: "more trust roots than a chain may have", source: tufEndless, refusal: fleet.ReasonRefused,
			lie: handOut(func(*host) [][]byte { return slices.Repeat([][]byte{[]byte("{}")}, 20_000) }),
		},
		{
			name: "trust roots of 15 megabytes", source: tufEndless, refusal: release.ErrTooLarge.Code, heap: 64 << 20,
			lie: handOut(func(*host) [][]byte { return slices.Repeat([][]byte{bytes.Repeat([]byte(" "), 1<<20)}, 15) }),
		},
		{
			name: "expired trust roots on the way to a good one", source: tufFreeze, ignored: "walked through: a sleeper is not stranded",
			before: func(h *host) { h.enrolled() }, rooted: true,
			lie: func(h *host) {
				expires := h.fleet.Root.Expires
				for range 3 {
					h.fleet.Root.Expires = h.fleet.Issued.Add(time.Second)
					h.fleet.NextRoot()
				}
				h.fleet.Root.Expires = expires
				h.fleet.NextRoot()
				h.publish(h.good)
			},
			seen: func(h *host) { h.rootIs(5) },
		},
		{
			name: "a last trust root that has expired", source: tufFreeze, refusal: release.ErrExpired.Code, rooted: true,
			lie: func(h *host) {
				expires := h.fleet.Root.Expires
				h.fleet.Root.Expires = h.fleet.Issued.Add(time.Second)
				h.fleet.NextRoot()
				h.publish(h.make(4, "evil"))
				h.fleet.Root.Expires = expires
			},
			truth: func(h *host) { h.fleet.NextRoot() },
		},
		{
			name: "the same trust root for ever", source: tufFreeze, refusal: release.ErrExpired.Code,
			before: func(h *host) {
				h.start()
				h.fleet.Root.Expires = h.fleet.Issued.Add(36 * time.Hour)
				h.fleet.NextRoot()
				h.good = h.confirmed(h.make(3, "good"))
			},
			lie: func(h *host) { h.later(48 * time.Hour) },
			truth: func(h *host) {
				h.fleet.Root.Expires = h.fleet.Issued.Add(1000 * time.Hour)
				h.fleet.NextRoot()
			},
		},
		{
			name: "a first trust root that is not the pinned one", source: tufKeys, refusal: release.ErrRootPin.Code,
			before: enrolling(func(m *fleetv1.EnrolResponse, h *host) {
				m.Roots = [][]byte{h.root(func(r *release.Root) { r.Version = 1; h.takeOver(release.RoleRelease)(r) })}
			}),
			lie: func(*host) {},
		},
	}
}

// rootIs waits until the host has a version of the trust root.
func (h *host) rootIs(version uint64) {
	h.t.Helper()
	h.await("the trust root", func(control.Status) bool {
		st, _ := h.journal()
		return st.Root.Version == version
	})
}
