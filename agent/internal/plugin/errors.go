package plugin

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// maxTextBytes bounds what is repeated of a plugin's words.
const maxTextBytes = 512

// Error says what is wrong with a plugin. It is nobody's verdict on a source or
// a host: the call may succeed another time.
type Error struct {
	Plugin fleet.PluginName
	Kind   fleet.PluginKind
	// Code is one of fleet.ReasonPlugin….
	Code  fleet.ReasonCode
	Cause error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s plugin %q %s", e.Kind, e.Plugin, printable(e.Cause.Error()))
}

func (e *Error) Unwrap() error { return e.Cause }

// Hint says what to do about a code of this package.
func (e *Error) Hint() string {
	switch e.Code { //nolint:exhaustive // The others have nothing of their own.
	case fleet.ReasonPluginMissing:
		return "publish the plugin for this host's system as well"
	case fleet.ReasonPluginChecksum:
		return "the host fetches it again by itself; find out who changed it"
	case fleet.ReasonPluginNotExecutable:
		return "publish the right executable for this host's system, statically linked; its state directory must not be mounted noexec"
	case fleet.ReasonPluginVersion:
		return "build the plugin with the pkg/plugin of this agent's version, or update the agent"
	case fleet.ReasonPluginBackoff:
		return "the host tries again by itself"
	}
	return "see the agent's log for what the plugin said; mend it and publish again: until then the host tries again by itself"
}

// CodeOf is the reason code of a plugin's error, or def for any other.
func CodeOf(err error, def fleet.ReasonCode) fleet.ReasonCode {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return def
}

// printable bounds text of a plugin and takes what terminals would act on out
// of it.
func printable(s string) string {
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
