package client

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                    "plain",
		"\x1b[2Jgone\a":            "[2Jgone",
		"two\nlines\tand tab":      "two lines and tab",
		"right\u202eto left\u200b": "rightto left",
		"bad \xff utf-8":           "bad  utf-8",
		strings.Repeat("x", 1<<20): strings.Repeat("x", maxText),
	} {
		if got := text(in); got != want {
			t.Errorf("text(%.40q) = %.40q, want %.40q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b]0;title\a\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := text(s)
		if !utf8.ValidString(got) || len(got) > maxText {
			t.Errorf("%q", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) {
				t.Errorf("control character in %q", got)
			}
		}
	})
}
