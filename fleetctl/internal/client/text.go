package client

import "github.com/cameronraysmith/fleet/pkg/refusal"

// maxText bounds one text of the coordinator, in bytes.
const maxText = 4096

// text makes what the coordinator sent for people harmless and bounded.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return refusal.Plain(s)
}

// texts does the same for each.
func texts(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = text(s)
	}
	return out
}
