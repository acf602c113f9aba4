//go:build linux

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// search looks for values that must be nowhere, and for one that must be somewhere: a
// search that finds nothing at all has not looked.
type search struct {
	// forms of each value: as it is, in hex, and in base64 wherever it begins.
	forms [][][]byte
	must  []byte
	// seen says that must was found; found is where a value was, never which.
	seen  bool
	found []string
}

func newSearch(values []string, must string) *search {
	s := &search{must: []byte(must)}
	for _, v := range values {
		s.forms = append(s.forms, forms([]byte(v)))
	}
	return s
}

// again is the same search with nothing found.
func (s *search) again() *search {
	return &search{forms: s.forms, must: s.must}
}

// forms are how a value may stand in other bytes.
func forms(v []byte) [][]byte {
	list := [][]byte{v, []byte(hex.EncodeToString(v)), []byte(strings.ToUpper(hex.EncodeToString(v)))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := e.EncodeToString(append(make([]byte, shift), v...))
			// Without what its neighbours have a part in.
			list = append(list, []byte(text[(shift*8+5)/6:len(v)*8/6+shift*8/6-1]))
		}
	}
	return list
}

// in looks into some bytes.
func (s *search) in(where string, b []byte) {
	s.seen = s.seen || bytes.Contains(b, s.must)
	for n, forms := range s.forms {
		for _, form := range forms {
			if bytes.Contains(b, form) {
				s.found = append(s.found, fmt.Sprintf("value %d of %d in %s", n+1, len(s.forms), where))
				break
			}
		}
	}
}

func (s *search) result() error {
	switch {
	case len(s.found) > 0:
		return fmt.Errorf("found %s", strings.Join(s.found, ", "))
	case !s.seen:
		return fmt.Errorf("%q was not found either: nobody looked", s.must)
	}
	return nil
}
