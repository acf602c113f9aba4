// Package strictjson reads JSON from outside the way signed documents need it:
// bounded in size and depth, no duplicate keys (encoding/json takes the last
// one, and matches names regardless of case), nothing after the value, and
// errors that name the line.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Sentinels that errors of this package wrap.
var (
	ErrTooLarge  = errors.New("too large")
	ErrTooDeep   = errors.New("nested too deeply")
	ErrDuplicate = errors.New("duplicate key")
	ErrSyntax    = errors.New("not valid JSON")
)

// MaxDepth bounds nesting.
const MaxDepth = 64

// Unmarshal checks data and decodes it into v. Unknown fields are ignored.
func Unmarshal(data []byte, maxBytes int, v any) error {
	return decode(data, maxBytes, v, false)
}

// UnmarshalKnown is Unmarshal that refuses unknown fields.
func UnmarshalKnown(data []byte, maxBytes int, v any) error {
	return decode(data, maxBytes, v, true)
}

func decode(data []byte, maxBytes int, v any, known bool) error {
	if err := check(data, maxBytes, true); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if known {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(v); err != nil {
		if te := (*json.UnmarshalTypeError)(nil); errors.As(err, &te) {
			return fmt.Errorf("line %d: field %q: got %s: %w", Line(data, te.Offset), te.Field, te.Value, ErrSyntax)
		}
		return fmt.Errorf("line %d: %w", Line(data, d.InputOffset()), err)
	}
	return nil
}

// Check reads data once without keeping it and refuses what is too large, too
// deep, no JSON, or has two equal keys in one object. Unlike Unmarshal it lets
// keys be that differ in case only, for free-form data.
func Check(data []byte, maxBytes int) error {
	return check(data, maxBytes, false)
}

// check refuses keys that differ in case only where fold is set, because
// encoding/json would take "Machine" for the field "machine".
func check(data []byte, maxBytes int, fold bool) error {
	if len(data) > maxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, len(data), maxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := value(d, data, 0, fold); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: something after the end of the document: %w", Line(data, d.InputOffset()), ErrSyntax)
	}
	return nil
}

func value(d *json.Decoder, data []byte, depth int, fold bool) error {
	if depth > MaxDepth {
		return fmt.Errorf("line %d: %w: at most %d levels", Line(data, d.InputOffset()), ErrTooDeep, MaxDepth)
	}
	tok, err := token(d, data)
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			key, err := token(d, data)
			if err != nil {
				return err
			}
			name, _ := key.(string)
			folded := name
			if fold {
				folded = foldName(name)
			}
			if seen[folded] {
				return fmt.Errorf("line %d: %w %q", Line(data, d.InputOffset()), ErrDuplicate, clip(name))
			}
			seen[folded] = true
			if err := value(d, data, depth+1, fold); err != nil {
				return err
			}
		}
		_, err = token(d, data)
		return err
	case json.Delim('['):
		for d.More() {
			if err := value(d, data, depth+1, fold); err != nil {
				return err
			}
		}
		_, err = token(d, data)
		return err
	}
	return nil
}

// foldName is equal for two names exactly where encoding/json takes them for
// the same field: strings.EqualFold, which is wider than lower case ("ſ" is an
// "s", "K" a "k").
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next // the smallest of the runes that fold into each other
			}
			r = next
		}
	}, name)
}

func token(d *json.Decoder, data []byte) (json.Token, error) {
	tok, err := d.Token()
	if err == nil {
		return tok, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("line %d: the document ends too early: %w", Line(data, int64(len(data))), ErrSyntax)
	}
	at := d.InputOffset()
	if se := (*json.SyntaxError)(nil); errors.As(err, &se) {
		at = se.Offset
	}
	return nil, fmt.Errorf("line %d: %w: %s", Line(data, at), ErrSyntax, err.Error())
}

// Line is the line, counted from 1, of a byte offset in data.
func Line(data []byte, offset int64) int {
	offset = min(max(offset, 0), int64(len(data)))
	return 1 + bytes.Count(data[:offset], []byte("\n"))
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
