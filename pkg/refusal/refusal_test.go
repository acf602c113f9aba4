package refusal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

func TestRoundTrip(t *testing.T) {
	want := fleet.Reason{Code: fleet.ReasonBanned, Message: "machine is banned: lost", Hint: "lift the ban"}
	err := fmt.Errorf("watching: %w", refusal.New(codes.PermissionDenied, want))
	if got, ok := refusal.Of(err); !ok || got != want {
		t.Errorf("got %+v, %t", got, ok)
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("code %s", status.Code(err))
	}
}

func TestOfOthers(t *testing.T) {
	for _, err := range []error{nil, errors.New("plain"), status.Error(codes.Unavailable, "gone")} {
		if r, ok := refusal.Of(err); ok {
			t.Errorf("%v: got %+v", err, r)
		}
	}
}

func TestOfIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	r, ok := refusal.Of(refusal.New(codes.Internal, fleet.Reason{Code: fleet.ReasonCode(long), Message: long, Hint: long}))
	if !ok || len(r.Code) > 64 || len(r.Message) > fleet.MaxReasonBytes || len(r.Hint) > fleet.MaxReasonBytes {
		t.Errorf("%d, %d, %d bytes", len(r.Code), len(r.Message), len(r.Hint))
	}
}

// TestCause: of what gRPC says about a connection that it did not get, people see why.
func TestCause(t *testing.T) {
	const why = "dial tcp [::1]:7443: connect: connection refused"
	for _, said := range []string{
		why,
		`connection error: desc = "transport: Error while dialing: ` + why + `"`,
		`last connection error: connection error: desc = "transport: error while dialing: ` + why + `"`,
	} {
		if got := refusal.Cause(said); got != why {
			t.Errorf("%q, of %q", got, said)
		}
	}
}

func TestPlainWriter(t *testing.T) {
	in := "a\x1b[2Jb\r\tc\n\x00ü€😀\u202e\x9b\xff.\x7f"
	want := "a\ufffd[2Jb\ufffd\tc\n\ufffdü€😀\ufffd\ufffd\ufffd.\ufffd"
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		w := refusal.PlainWriter(&out)
		for rest := []byte(in); len(rest) > 0; {
			piece := rest[:min(size, len(rest))]
			if n, err := w.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("%d of %d bytes, %v", n, len(piece), err)
			}
			rest = rest[len(piece):]
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
	if n, err := refusal.PlainWriter(closed{}).Write([]byte("x")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to what is closed: %d, %v", n, err)
	}
}

// closed can't be written to.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestOfIsPlain(t *testing.T) {
	evil := "a\x1b[2J\u202eb\x00\nc"
	r, ok := refusal.Of(refusal.New(codes.Internal, fleet.Reason{Code: "x", Message: evil, Hint: evil}))
	if want := "a[2Jb c"; !ok || r.Message != want || r.Hint != want {
		t.Errorf("got %q, %q", r.Message, r.Hint)
	}
}
