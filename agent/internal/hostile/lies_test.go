package hostile

import (
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

type (
	response = fleetv1.GetDesiredResponse
	statusOf = control.Status
)

// changed is a lie that changes the answers to one method.
func changed[M any](change func(*M)) agenttest.Lie {
	return agenttest.Lie{Answer: func(_ string, _, honest any, err error) (any, error) {
		if m, ok := honest.(*M); ok && err == nil {
			change(m)
		}
		return honest, err
	}}
}

func desired(change func(*response)) agenttest.Lie { return changed(change) }

// failing has a method fail.
func failing(method string, with error) agenttest.Lie {
	return agenttest.Lie{
		Answer: func(m string, _, honest any, err error) (any, error) {
			if m == method {
				return nil, with
			}
			return honest, err
		},
		Stream: func(m string, _ grpc.ServerStream, honest func() error) error {
			if m == method {
				return with
			}
			return honest()
		},
	}
}

// streaming serves one method's streams otherwise, until their end.
func streaming(method string, serve func(grpc.ServerStream) error) agenttest.Lie {
	return agenttest.Lie{Stream: func(m string, s grpc.ServerStream, honest func() error) error {
		if m == method {
			return serve(s)
		}
		return honest()
	}}
}

// pieces sends the same piece of a blob again and again.
func pieces(size int, pause time.Duration) agenttest.Lie {
	m := &fleetv1.GetBlobResponse{Data: make([]byte, size)}
	return streaming("GetBlob", func(s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(m); err != nil {
				return err
			}
			if err := wait(s, pause); err != nil {
				return err
			}
		}
	})
}

// wait waits, for d or for the end of the stream; for less than nothing, for
// ever.
func wait(s grpc.ServerStream, d time.Duration) error {
	var over <-chan time.Time
	if d == 0 {
		return s.Context().Err()
	}
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-s.Context().Done():
		return s.Context().Err()
	case <-over:
		return nil
	}
}

// enrolling has the host enrol with a coordinator that lies from the start.
func enrolling(change func(*fleetv1.EnrolResponse, *host)) func(*host) {
	return func(h *host) {
		h.coord.Lie(changed(func(m *fleetv1.EnrolResponse) { change(m, h) }))
		h.start()
	}
}

// issue makes a certificate with a CA.
func (h *host) issue(ca *pki.CA, id pki.Identity, ttl time.Duration) tls.Certificate {
	h.t.Helper()
	key, err := pki.NewKey()
	check(h.t, err)
	der, err := ca.Issue(id, key.Public(), h.fleet.Now(), ttl)
	check(h.t, err)
	return tls.Certificate{Certificate: [][]byte{der, ca.Cert.Raw}, PrivateKey: key}
}

// refused is an error as grpc servers send it.
func refused(code codes.Code, text string) error { return status.Error(code, text) }
