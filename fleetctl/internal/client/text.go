package client

import (
	"strings"
	"unicode"
)

// maxText bounds one text of the coordinator, in bytes.
const maxText = 4096

// text makes what the coordinator sent for people harmless: without control
// and formatting characters, which could rewrite what a terminal shows, and
// bounded.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s)
}

// texts does the same for each.
func texts(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = text(s)
	}
	return out
}
