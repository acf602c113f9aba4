//go:build linux

package main

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	const value, must = "fe3-Zz_09~correct horse battery?>", "the mark"
	for name, text := range map[string]string{
		"as it is":   "x" + value + "y",
		"hex":        hex.EncodeToString([]byte("a" + value)),
		"HEX":        strings.ToUpper(hex.EncodeToString([]byte(value + "b"))),
		"base64":     base64.StdEncoding.EncodeToString([]byte(value)),
		"base64 + 1": base64.StdEncoding.EncodeToString([]byte("a" + value + "b")),
		"base64 + 2": base64.URLEncoding.EncodeToString([]byte("ab" + value + "c")),
		"base64 + 4": base64.RawURLEncoding.EncodeToString([]byte("abcd" + value + "cde")),
	} {
		s := newSearch([]string{"another", value}, must)
		s.in(name, []byte(text))
		if err := s.result(); err == nil || !strings.Contains(err.Error(), "value 2 of 2 in "+name) || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newSearch([]string{value}, must)
	s.in("elsewhere", []byte(value[1:]))
	if err := s.result(); err == nil || !strings.Contains(err.Error(), "nobody looked") {
		t.Errorf("without the mark: %v", err)
	}
	s.in("elsewhere", []byte("a"+must))
	if err := s.result(); err != nil {
		t.Error(err)
	}
}
