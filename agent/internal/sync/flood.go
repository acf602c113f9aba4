package sync

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // Registers the codec.
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// counted is gRPC's own codec, which looks at how many fields an answer has
// before it makes values of them: millions of empty ones fit into an answer,
// and would take a hundred times its room.
type counted struct {
	encoding.CodecV2

	err error
}

func newCounted() *counted { return &counted{CodecV2: encoding.GetCodecV2("proto")} }

// Unmarshal refuses more fields than all that an answer may have together.
func (c *counted) Unmarshal(data mem.BufferSlice, v any) error {
	const most = fleet.MaxProfiles + maxLoosenings + maxRoots
	rest := data.Materialize()
	for n := 0; len(rest) > 0; n++ {
		if n == most {
			c.err = fmt.Errorf("%w: more than %d fields", ErrAnswer, most)
			return c.err
		}
		_, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			break // It is no message: the codec says what is wrong.
		}
		rest = rest[size:]
	}
	return c.CodecV2.Unmarshal(data, v) //nolint:wrapcheck // gRPC wraps it.
}
