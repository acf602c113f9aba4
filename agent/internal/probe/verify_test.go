package probe_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// after says fail until so much time is over.
func after(start time.Time, d time.Duration) (fleet.Verdict, string) {
	if time.Since(start) >= d {
		return fleet.VerdictPass, "fine"
	}
	return fleet.VerdictFail, "not yet"
}

func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name   string
		probes string // names, which say how they behave
		want   fleet.Verdict
		took   time.Duration
		part   string
	}{
		{"nothing to look at", "", fleet.VerdictPass, 0, ""},
		{"at once", "now", fleet.VerdictPass, 0, ""},
		{"later", "now later", fleet.VerdictPass, 20 * time.Second, ""},
		{"all at once in parallel", "later later later", fleet.VerdictPass, 20 * time.Second, ""},
		{"never", "now never", fleet.VerdictFail, time.Minute, `probe "never": not yet (6`},
		{"unsure", "unsure now", fleet.VerdictInconclusive, time.Minute, `probe "unsure"`},
		{"all unsure", "unsure unsure", fleet.VerdictInconclusive, time.Minute, `probe "unsure"`},
		{"fail says more than unsure", "unsure never", fleet.VerdictFail, time.Minute, `probe "never"`},
		{"hangs", "hang", fleet.VerdictFail, time.Minute, "no answer before the deadline"},
		{"late", "late", fleet.VerdictFail, time.Minute, "not yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var probes []fleet.Probe
				for name := range strings.FieldsSeq(c.probes) {
					probes = append(probes, fleet.Probe{Name: name})
				}
				got, reason := probe.Verify(t.Context(), probes, time.Minute, func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string) {
					switch p.Name {
					case "now":
						return after(start, 0)
					case "later":
						return after(start, 20*time.Second)
					case "late":
						return after(start, time.Hour)
					case "unsure":
						return fleet.VerdictInconclusive, "cannot tell"
					case "hang":
						<-ctx.Done()
						return fleet.VerdictInconclusive, "interrupted"
					}
					return fleet.VerdictFail, "not yet"
				})
				if got != c.want || !strings.Contains(reason.Message, c.part) {
					t.Errorf("got %s, %+v; want %s, %q", got, reason, c.want, c.part)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if got != fleet.VerdictPass && (reason.Code == "" || reason.Hint == "") {
					t.Errorf("reason is %+v", reason)
				}
			})
		})
	}
}

func TestVerifyInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, reason := probe.Verify(ctx, []fleet.Probe{{Name: "never"}}, time.Minute, func(context.Context, fleet.Probe) (fleet.Verdict, string) {
			return fleet.VerdictFail, "not yet"
		})
		if got != fleet.VerdictInconclusive {
			t.Errorf("got %s, %+v", got, reason)
		}
	})
}

func TestVerifyReasonIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probes := make([]fleet.Probe, fleet.MaxProbes)
		for i := range probes {
			probes[i].Name = fmt.Sprint("probe", i)
		}
		_, reason := probe.Verify(t.Context(), probes, time.Second, func(context.Context, fleet.Probe) (fleet.Verdict, string) {
			return fleet.VerdictFail, strings.Repeat("x", 500)
		})
		if len(reason.Message) > fleet.MaxReasonBytes || !strings.Contains(reason.Message, "more") {
			t.Errorf("%d bytes: %s", len(reason.Message), reason.Message)
		}
	})
}

func TestVerifyKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		probes := []fleet.Probe{{Name: "x", Interval: fleet.Duration(10 * time.Second)}}
		probe.Verify(t.Context(), probes, 55*time.Second, func(context.Context, fleet.Probe) (fleet.Verdict, string) {
			n.Add(1)
			return fleet.VerdictFail, ""
		})
		if n.Load() != 6 {
			t.Errorf("%d attempts in 55 s", n.Load())
		}
	})
}
