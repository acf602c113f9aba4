package sync

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/cameronraysmith/fleet/pkg/countcodec"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func (p *pipe) GetDesired(context.Context, *fleetv1.GetDesiredRequest) (*fleetv1.GetDesiredResponse, error) {
	return p.desired, nil
}

func (p *pipe) Renew(context.Context, *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	return p.renewed, nil
}

func many(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = []byte("x")
	}
	return out
}

// TestAnswersAreBounded: what a coordinator may have this host look at is
// bounded by number, not only by bytes; what may be long, may.
func TestAnswersAreBounded(t *testing.T) {
	profiles := make([]*fleetv1.DesiredProfile, fleet.MaxProfiles+1)
	for i := range profiles {
		profiles[i] = &fleetv1.DesiredProfile{Profile: string(fleet.System)}
	}
	for name, c := range map[string]struct {
		answer *fleetv1.GetDesiredResponse
		good   bool
	}{
		"loosenings":      {&fleetv1.GetDesiredResponse{Loosenings: many(maxLoosenings)}, true},
		"many loosenings": {&fleetv1.GetDesiredResponse{Loosenings: many(maxLoosenings + 1)}, false},
		"a flood":         {&fleetv1.GetDesiredResponse{Loosenings: many(1_000_000)}, false},
		"roots":           {&fleetv1.GetDesiredResponse{Roots: many(maxRoots)}, true},
		"many roots":      {&fleetv1.GetDesiredResponse{Roots: many(maxRoots + 1)}, false},
		"long roots":      {&fleetv1.GetDesiredResponse{Roots: [][]byte{make([]byte, 2*maxMessageBytes)}}, true},
		"profiles":        {&fleetv1.GetDesiredResponse{Profiles: profiles[1:]}, true},
		"a strange name":  {&fleetv1.GetDesiredResponse{Profiles: []*fleetv1.DesiredProfile{{Profile: "home/../etc"}}}, false},
		"too long":        {&fleetv1.GetDesiredResponse{Roots: [][]byte{make([]byte, maxRootsBytes)}}, false},
		"many profiles":   {&fleetv1.GetDesiredResponse{Profiles: profiles}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, config := newPipe(t)
				defer p.server.Stop()
				p.desired = c.answer
				client := New(config)
				defer client.Close()
				_, err := client.GetDesired(t.Context(), 0)
				if c.good {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if !errors.Is(err, ErrAnswer) {
					t.Fatalf("got %v, want %v", err, ErrAnswer)
				}
				if r := ReasonOf(err); r.Code != fleet.ReasonRefused || r.Hint == "" {
					t.Errorf("reason: %+v", r)
				}
			})
		})
	}
}

// TestFloodIsNotDecoded: an answer with millions of entries is refused before
// room is made for them.
func TestFloodIsNotDecoded(t *testing.T) {
	for name, m := range map[string]*fleetv1.GetDesiredResponse{
		"loosenings": {Loosenings: make([][]byte, 1_000_000)},
		"profiles":   {Profiles: slices.Repeat([]*fleetv1.DesiredProfile{{}}, 1_000_000)},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			var got fleetv1.GetDesiredResponse
			err = countcodec.New(maxAnswerFields).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &got)
			if !errors.Is(err, countcodec.ErrTooMany) || len(got.GetLoosenings()) > 0 || len(got.GetProfiles()) > 0 {
				t.Errorf("%d loosenings and %d profiles were decoded: %v", len(got.GetLoosenings()), len(got.GetProfiles()), err)
			}
		})
	}
}

// TestOtherAnswersAreShort: only trust roots make an answer long.
func TestOtherAnswersAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, config := newPipe(t)
		defer p.server.Stop()
		p.renewed = &fleetv1.RenewResponse{Certificate: make([]byte, maxMessageBytes)}
		client := New(config)
		defer client.Close()
		_, err := client.Renew(t.Context(), nil)
		if !errors.Is(err, ErrAnswer) {
			t.Errorf("got %v", err)
		}
		p.renewed = &fleetv1.RenewResponse{Ca: many(maxCertificates + 1)}
		if _, err := client.Renew(t.Context(), nil); !errors.Is(err, ErrAnswer) {
			t.Errorf("many certificates: %v", err)
		}
	})
}
