package hostile

import (
	"bytes"
	"crypto/tls"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func unknownField(size int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), make([]byte, size))
}

// otherCA is a CA that is not the fleet's.
func (h *host) otherCA(f fleet.FleetID) *pki.CA {
	h.t.Helper()
	ca, err := pki.NewCA(f, h.fleet.Now().Add(-time.Hour))
	check(h.t, err)
	return ca
}

// renewal has the host renew its identity, and changes the answer.
func renewal(change func(h *host, m *fleetv1.RenewResponse, csr []byte)) func(*host) {
	return func(h *host) {
		h.coord.Lie(agenttest.Lie{Answer: func(method string, req, honest any, err error) (any, error) {
			m, ok := honest.(*fleetv1.RenewResponse)
			if r, is := req.(*fleetv1.RenewRequest); ok && is && err == nil {
				change(h, m, r.GetCsr())
			}
			return honest, err
		}})
		h.later(5 * 24 * time.Hour)
	}
}

// listing has the trust root list the fleet's CA and its successor.
func listing(a attack) attack {
	a.before = func(h *host) {
		h.enrolled()
		h.fleet.Root.CAs = [][]byte{h.fleet.CA.Cert.Raw, h.otherCA("test").Cert.Raw}
		h.fleet.NextRoot()
		h.good = h.confirmed(h.make(4, "two-cas"))
	}
	return a
}

// certify makes a certificate over the key of a request.
func (h *host) certify(ca *pki.CA, id pki.Identity, csr []byte) []byte {
	pub, err := pki.ParseCSR(csr)
	check(h.t, err)
	der, err := ca.Issue(id, pub, h.fleet.Now(), pki.HostTTL)
	check(h.t, err)
	return der
}

// answersAs has something else than the coordinator answer at its address.
func answersAs(cert func(*host) tls.Certificate) attack {
	var before tls.Certificate
	return attack{
		refusal: fleet.ReasonUnreachable,
		lie: func(h *host) {
			before = h.coord.Identify(cert(h))
			h.coord.Stop()
			h.coord.Start()
		},
		truth: func(h *host) { h.coord.Identify(before) },
	}
}

func (a attack) named(name, source string) attack {
	a.name, a.source = name, source
	return a
}

// identities are attacks with certificates. The coordinator holds the CA of
// hosts: it can make any of them.
func identities() []attack {
	own := pki.HostIdentity("test", "pyrite")
	renew := func(name string, change func(h *host, m *fleetv1.RenewResponse, csr []byte)) attack {
		return attack{name: name, source: ownIdentity, refusal: fleet.ReasonIdentity, lie: renewal(change)}
	}
	enrol := func(name string, change func(*fleetv1.EnrolResponse, *host)) attack {
		return attack{
			name: name, source: ownIdentity, refusal: fleet.ReasonIdentity, before: enrolling(change), lie: func(*host) {},
		}
	}
	return []attack{
		renew("another CA at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			ca := h.otherCA("test")
			m.Certificate, m.Ca = h.certify(ca, own, csr), [][]byte{ca.Cert.Raw}
		}),
		renew("another CA beside the fleet's at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			ca := h.otherCA("test")
			m.Certificate, m.Ca = h.certify(ca, own, csr), [][]byte{h.fleet.CA.Cert.Raw, ca.Cert.Raw}
		}),
		listing(renew("another CA than the trust root lists at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			ca := h.otherCA("test")
			m.Certificate, m.Ca = h.certify(ca, own, csr), [][]byte{h.fleet.CA.Cert.Raw, ca.Cert.Raw}
		})),
		renew("another machine's certificate at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			m.Certificate = h.certify(h.fleet.CA, pki.HostIdentity("test", "galena"), csr)
		}),
		renew("an operator's certificate at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			m.Certificate = h.certify(h.fleet.CA, pki.OperatorIdentity("test", "eve"), csr)
		}),
		renew("another fleet's certificate at renewal", func(h *host, m *fleetv1.RenewResponse, csr []byte) {
			m.Certificate = h.certify(h.fleet.CA, pki.HostIdentity("other", "pyrite"), csr)
		}),
		renew("a certificate over another key at renewal", func(h *host, m *fleetv1.RenewResponse, _ []byte) {
			m.Certificate = h.issue(h.fleet.CA, own, pki.HostTTL).Certificate[0]
		}),
		renew("no certificate at renewal", func(_ *host, m *fleetv1.RenewResponse, _ []byte) { m.Certificate = nil }),
		renew("a certificate that is none at renewal", func(_ *host, m *fleetv1.RenewResponse, _ []byte) {
			m.Certificate = bytes.Repeat([]byte{0x30, 0x80}, 1<<10)
		}),
		renew("no CA at renewal", func(_ *host, m *fleetv1.RenewResponse, _ []byte) { m.Ca = nil }),
		renew("a host's certificate as a CA at renewal", func(_ *host, m *fleetv1.RenewResponse, _ []byte) { m.Ca = append(m.Ca, m.GetCertificate()) }),
		{
			name: "a thousand CAs at renewal", source: tufEndless, refusal: fleet.ReasonRefused,
			lie: renewal(func(_ *host, m *fleetv1.RenewResponse, _ []byte) {
				for range 1_000 {
					m.Ca = append(m.Ca, m.GetCa()[0])
				}
			}),
		},
		enrol("another machine's certificate at enrolment", func(m *fleetv1.EnrolResponse, h *host) {
			m.Certificate = h.issue(h.fleet.CA, pki.HostIdentity("test", "galena"), pki.HostTTL).Certificate[0]
		}),
		enrol("another CA at enrolment", func(m *fleetv1.EnrolResponse, h *host) {
			m.Ca = [][]byte{h.otherCA("test").Cert.Raw}
		}),
		answersAs(func(h *host) tls.Certificate {
			return h.issue(h.fleet.CA, pki.HostIdentity("test", "galena"), time.Hour)
		}).
			named("a host that answers as the coordinator", ownIdentity),
		answersAs(func(h *host) tls.Certificate {
			return h.issue(h.fleet.CA, pki.OperatorIdentity("test", "eve"), time.Hour)
		}).
			named("an operator that answers as the coordinator", ownIdentity),
		answersAs(func(h *host) tls.Certificate {
			return h.issue(h.otherCA("test"), pki.CoordinatorIdentity("test", "cinnabar"), time.Hour)
		}).named("a coordinator of another CA", tufMirror),
		answersAs(func(h *host) tls.Certificate {
			return h.issue(h.fleet.CA, pki.CoordinatorIdentity("other", "cinnabar"), time.Hour)
		}).named("a coordinator of another fleet", tufMirror),
		answersAs(func(h *host) tls.Certificate {
			return h.issue(h.fleet.CA, pki.CoordinatorIdentity("test", "cinnabar"), time.Nanosecond)
		}).named("a coordinator whose certificate has ended", tufMirror),
		{
			name: "another CA's coordinator at enrolment", source: ownIdentity, refusal: fleet.ReasonUnreachable,
			before: func(h *host) {
				h.honest = h.coord.Identify(h.issue(h.otherCA("test"), pki.CoordinatorIdentity("test", "cinnabar"), time.Hour))
				h.start()
			},
			lie: func(*host) {}, truth: func(h *host) { h.coord.Identify(h.honest) },
		},
	}
}

// clocks are attacks with time.
func clocks() []attack {
	future := func(g *fleet.Generation) {
		g.Issued = g.Issued.AddDate(50, 0, 0)
		g.Expires = g.Issued.Add(time.Hour)
	}
	ahead := func(g *fleet.Generation) { g.Issued = g.Issued.Add(2 * time.Hour) }
	unsynced := func(h *host) { h.setup.Unsynced = true; h.enrolled() }
	floor := func(h *host) {
		st, _ := h.journal()
		if st.Floor.After(time.Now()) {
			h.t.Errorf("time's floor is %s", st.Floor)
		}
	}
	return []attack{
		{
			name: "a refused generation from the future", source: ownTime, refusal: release.ErrWrongMachine.Code, held: floor,
			lie: offer(func(g *fleet.Generation) {
				future(g)
				g.Machine = "galena"
			}),
		},
		{
			name: "a release key, and a generation of two hours from now", source: ownTime, refusal: release.ErrFuture.Code, held: floor,
			lie: offer(ahead),
		},
		{
			name: "a release key, and a generation of fifty years from now", source: ownTime, refusal: release.ErrFuture.Code, held: floor,
			lie: offer(future),
		},
		{
			name: "the same, on a host that does not know the time", source: ownTime, refusal: release.ErrFuture.Code, held: floor,
			before: unsynced, lie: offer(future),
		},
		{
			name: "a forged generation from the future", source: ownTime, refusal: release.ErrUnknownKey.Code, held: floor,
			lie: offer(future, stranger),
		},
		{
			name: "an expired generation, once the clock was set back", source: tufFreeze, refusal: release.ErrExpired.Code, before: unsynced,
			lie: func(h *host) {
				h.publish(h.make(4, "evil", func(g *fleet.Generation) {
					g.Issued = g.Issued.AddDate(0, 0, -40)
					g.Expires = g.Issued.AddDate(0, 0, 10)
				}))
				h.later(-35 * 24 * time.Hour)
			},
		},
	}
}
