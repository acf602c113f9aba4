package fleet

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestConsolePolicy(t *testing.T) {
	hour := Duration(time.Hour)
	for name, c := range map[string]struct {
		is   ConsolePolicy
		want string // of the error
	}{
		"nothing":                 {ConsolePolicy{}, ""},
		"all":                     {ConsolePolicy{Notice: hour, Postpone: 3, PostponeFor: hour, Power: PowerAC, Idle: hour, AtMost: hour}, ""},
		"battery":                 {ConsolePolicy{Power: "battery"}, "use any or ac"},
		"a long notice":           {ConsolePolicy{Notice: 25 * hour}, "console notice 25h0m0s: at most 24h"},
		"a negative one":          {ConsolePolicy{Notice: -1}, "console notice"},
		"a long postponement":     {ConsolePolicy{Notice: hour, Postpone: 1, PostponeFor: 73 * hour}, "postpone_for"},
		"too many":                {ConsolePolicy{Notice: hour, Postpone: 11}, "postpone 11: at most 10"},
		"idle for ever":           {ConsolePolicy{Idle: 25 * hour}, "idle"},
		"for ever":                {ConsolePolicy{Idle: hour, AtMost: 31 * 24 * hour}, "at_most"},
		"postponed untold":        {ConsolePolicy{Postpone: 1}, "no notice"},
		"for how long, and never": {ConsolePolicy{Notice: hour, PostponeFor: hour}, "no postpone"},
		"a bound of nothing":      {ConsolePolicy{Notice: hour, Power: PowerAny, AtMost: hour}, "which it bounds"},
	} {
		err := Policy{Console: c.is}.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestConsolePolicyIsCritical: an agent that knows no console holds; and where nothing is
// asked of one, nothing is written that such an agent would have to know.
func TestConsolePolicyIsCritical(t *testing.T) {
	g := Generation{Policy: Policy{Console: ConsolePolicy{Notice: Duration(time.Hour)}}}
	if err := g.validateConsole(); err == nil || !strings.Contains(err.Error(), CriticalConsole) {
		t.Errorf("got %v", err)
	}
	g.Critical = []string{CriticalConsole}
	if err := g.validateConsole(); err != nil {
		t.Error(err)
	}
	if b, err := json.Marshal(Policy{}); err != nil || string(b) != "{}" {
		t.Errorf("an empty policy is %s, %v", b, err)
	}
}
