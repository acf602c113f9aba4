package countcodec_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/cameronraysmith/fleet/pkg/countcodec"
)

func decode(most int, b []byte) (*fieldmaskpb.FieldMask, *countcodec.Codec, error) {
	c, m := countcodec.New(most), &fieldmaskpb.FieldMask{}
	return m, c, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
}

func TestCodec(t *testing.T) {
	b, err := proto.Marshal(&fieldmaskpb.FieldMask{Paths: []string{"a", "", "c"}})
	if err != nil {
		t.Fatal(err)
	}
	if m, c, err := decode(3, b); err != nil || c.Err() != nil || len(m.GetPaths()) != 3 {
		t.Errorf("as many as may be: %v, %v, %v", m, c.Err(), err)
	}
	if m, c, err := decode(2, b); !errors.Is(err, countcodec.ErrTooMany) || !errors.Is(c.Err(), countcodec.ErrTooMany) || len(m.GetPaths()) != 0 {
		t.Errorf("one too many: %v, %v, %v", m, c.Err(), err)
	}
	if _, c, err := decode(4, append(b, 0xff)); err == nil || c.Err() != nil {
		t.Errorf("no message: %v, %v", c.Err(), err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("\n\x01a\n\x00"))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, _, err := decode(4, b); err == nil && len(m.GetPaths()) > 4 {
			t.Errorf("%d fields", len(m.GetPaths()))
		}
	})
}
