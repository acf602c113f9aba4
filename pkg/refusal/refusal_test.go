package refusal_test

import (
	"errors"
	"fmt"
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

func TestOfIsPlain(t *testing.T) {
	evil := "a\x1b[2J\u202eb\x00\nc"
	r, ok := refusal.Of(refusal.New(codes.Internal, fleet.Reason{Code: "x", Message: evil, Hint: evil}))
	if want := "a[2Jb c"; !ok || r.Message != want || r.Hint != want {
		t.Errorf("got %q, %q", r.Message, r.Hint)
	}
}
