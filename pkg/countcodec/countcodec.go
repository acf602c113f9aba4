// Package countcodec is gRPC's own codec with a bound on the number of fields:
// an empty one takes two bytes in a message and more than a hundred in memory,
// so that a bound on bytes alone leaves room for a flood.
package countcodec

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // Registers the codec.
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// ErrTooMany is a message with more fields than are taken.
var ErrTooMany = errors.New("too many fields")

// Codec is for one call: see grpc.ForceCodecV2.
type Codec struct {
	encoding.CodecV2

	most int
	err  error
}

// New makes a codec that takes at most so many fields at the top of a message.
func New(most int) *Codec { return &Codec{CodecV2: encoding.GetCodecV2("proto"), most: most} }

// Err is an ErrTooMany where a message was refused; gRPC passes on only the
// text of it.
func (c *Codec) Err() error { return c.err }

// Unmarshal counts before it makes values. What is no message is left to the
// codec below, which says what is wrong.
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	rest := buf.ReadOnlyData()
	for n := 0; len(rest) > 0; n++ {
		if n == c.most {
			c.err = fmt.Errorf("%w: more than %d", ErrTooMany, c.most)
			return c.err
		}
		_, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			break
		}
		rest = rest[size:]
	}
	return c.CodecV2.Unmarshal(data, v) //nolint:wrapcheck // gRPC wraps it.
}
