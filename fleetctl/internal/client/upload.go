package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Sizes and limits of uploads.
const (
	// pieceBytes is one message of an upload: small, so that a slow line shows
	// progress within the window that sendPace gives it, and with its header within
	// gRPC's buffers of 32 KiB: the next size is 1 MiB.
	pieceBytes = 31 << 10
	// uploadTries without any progress, then the upload fails.
	uploadTries = 6
)

// Has says whether the coordinator has a blob whole.
func (c *Client) Has(ctx context.Context, ref fleet.BlobRef) (bool, error) {
	complete, _, err := c.stat(ctx, ref)
	return complete, err
}

func (c *Client) stat(ctx context.Context, ref fleet.BlobRef) (complete bool, offset uint64, err error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.StatBlob(ctx, &fleetv1.StatBlobRequest{Digest: string(ref.Digest), Size: ref.Size})
	if err != nil {
		return false, 0, c.explain(ctx, err)
	}
	if res.GetOffset() > ref.Size {
		return false, 0, fmt.Errorf("%w: the coordinator has %d bytes of a blob of %d", ErrRefused, res.GetOffset(), ref.Size)
	}
	return res.GetComplete(), res.GetOffset(), nil
}

// Upload sends a blob, going on from where an earlier upload ended. A
// connection that is cut is taken up again here, with growing pauses; callers
// need not retry. progress is told how many bytes are there.
func (c *Client) Upload(ctx context.Context, ref fleet.BlobRef, src io.ReaderAt, progress func(done uint64)) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = c.pause, 10*time.Second
	var best uint64
	for tries := 0; ; {
		complete, offset, err := c.stat(ctx, ref)
		if err == nil && complete {
			progress(ref.Size)
			return nil
		}
		if err == nil {
			if offset > best {
				best, tries = offset, 0
				pause.Reset()
			}
			err = c.put(ctx, ref, offset, src, progress)
			if err == nil {
				return nil
			}
		}
		tries++
		if tries == uploadTries || !errors.Is(err, ErrUnreachable) && !errors.Is(err, errOffset) {
			return fmt.Errorf("uploading %s: %w", ref.Digest.Short(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// put sends what is missing from offset on.
func (c *Client) put(ctx context.Context, ref fleet.BlobRef, offset uint64, src io.ReaderAt, progress func(uint64)) error {
	ctx, out, end := c.sending(ctx, sendPace)
	defer end()
	stream, err := c.rpc.PutBlob(ctx)
	if err != nil {
		return c.explain(ctx, err)
	}
	m := &fleetv1.PutBlobRequest{Digest: string(ref.Digest), Size: ref.Size, Offset: offset}
	for at := offset; ; {
		n := min(pieceBytes, ref.Size-at)
		// A message must not change after Send, so each has its own buffer.
		m.Data = make([]byte, n)
		if _, err := src.ReadAt(m.Data, int64(at)); err != nil && !errors.Is(err, io.EOF) { //nolint:gosec // at ≤ Size ≤ 4 GiB.
			return fmt.Errorf("reading the blob: %w", err)
		}
		// An error of Send is io.EOF: the real one comes with the answer.
		if err := out.send(len(m.GetData()), func() error { return stream.Send(m) }); err != nil {
			break
		}
		at += n
		progress(at)
		if at == ref.Size {
			break
		}
		m = &fleetv1.PutBlobRequest{}
	}
	var res *fleetv1.PutBlobResponse
	if err := out.answer(func() (err error) { res, err = stream.CloseAndRecv(); return err }); err != nil {
		return err
	}
	if res.GetOffset() != ref.Size {
		return fmt.Errorf("%w: the coordinator has %d bytes of %d", errOffset, res.GetOffset(), ref.Size)
	}
	return nil
}
