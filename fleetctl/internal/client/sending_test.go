package client

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// deaf is a coordinator that takes so many messages, and then neither reads nor
// answers; negative: it reads all.
type deaf struct {
	wire
	takes int
}

func (d *deaf) StatBlob(context.Context, *fleetv1.StatBlobRequest) (*fleetv1.StatBlobResponse, error) {
	return &fleetv1.StatBlobResponse{}, nil
}

func (d *deaf) PutBlob(s grpc.ClientStreamingServer[fleetv1.PutBlobRequest, fleetv1.PutBlobResponse]) error {
	return listen(s, d.takes)
}

func (d *deaf) Stage(s grpc.ClientStreamingServer[fleetv1.StageRequest, fleetv1.StageResponse]) error {
	return listen(s, d.takes)
}

func listen[Q, A any](s grpc.ClientStreamingServer[Q, A], takes int) error {
	for n := 0; n != takes; n++ {
		if _, err := s.Recv(); err != nil {
			break
		}
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// TestDeafCoordinator: one that takes nothing more, or does not answer, ends an
// upload and a staging, each in minutes, as one that is away.
func TestDeafCoordinator(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 1<<20)
	envelopes := make([]Envelopes, 64)
	for i := range envelopes {
		envelopes[i] = Envelopes{Generation: large[:64<<10]}
	}
	for name, takes := range map[string]int{"takes nothing": 0, "takes a little": 5, "does not answer": -1} {
		for call, do := range map[string]func(context.Context, *Client) error{
			"upload": func(ctx context.Context, c *Client) error {
				c.pause = time.Second
				ref := fleet.BlobRef{Digest: fleet.DigestOf(large), Size: uint64(len(large))}
				return c.Upload(ctx, ref, bytes.NewReader(large), func(uint64) {})
			},
			"stage": func(ctx context.Context, c *Client) error { return c.Stage(ctx, "r1", envelopes) },
		} {
			t.Run(call+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					err := do(t.Context(), serve(t, &deaf{takes: takes}))
					if !errors.Is(err, pace.ErrStalled) || !errors.Is(err, ErrUnreachable) || ui.HintOf(err) == "" {
						t.Errorf("got %v", err)
					}
					if took := time.Since(start); took > uploadTries*(answerPace.Window+time.Minute) {
						t.Errorf("took %v", took)
					}
				})
			})
		}
	}
}
