package plain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/seal"
)

// walker opens values in the file's order, and keeps the MAC.
type walker struct {
	key    *seal.DataKey
	meta   *seal.Metadata
	mac    seal.MAC
	leaves []Leaf
}

func (w *walker) value(v *jsontree.Value, path []string) error {
	switch v.Kind {
	case jsontree.Object:
		for _, m := range v.Members {
			if err := w.value(m.Value, append(slices.Clone(path), m.Key)); err != nil {
				return err
			}
		}
		return nil
	case jsontree.Array:
		for _, e := range v.Elements {
			if err := w.value(e, path); err != nil {
				return err
			}
		}
		return nil
	case jsontree.Null: // sops leaves it out, and out of the MAC.
		return nil
	case jsontree.Bool, jsontree.Number, jsontree.String:
	}
	encrypted, err := w.meta.Rule.Encrypted(path)
	if err != nil {
		return err //nolint:wrapcheck // It names the rule.
	}
	leaf := Leaf{Path: path, Clear: !encrypted}
	var kind seal.Type
	if encrypted {
		leaf.Value, kind, err = w.open(v, path)
	} else {
		leaf.Value, kind, err = readable(v)
	}
	if err != nil {
		return fmt.Errorf("the value at %s: %w", where(path), err)
	}
	if kind == seal.Comment {
		return nil // One in a list; it counts for nothing, as all comments.
	}
	leaf.Type = string(kind)
	if encrypted || !w.meta.EncryptedOnly {
		_, _ = w.mac.Write([]byte(leaf.Value)) // A hash takes all.
	}
	w.leaves = append(w.leaves, leaf)
	return nil
}

func (w *walker) open(v *jsontree.Value, path []string) (string, seal.Type, error) {
	text, _ := v.Text()
	if v.Kind != jsontree.String {
		return "", "", fmt.Errorf("%w: it is %s, and not encrypted", sops.ErrFormat, v.Kind)
	}
	if text == "" {
		return "", seal.Str, nil
	}
	s, err := seal.ParseValue(text)
	if err != nil {
		return "", "", err //nolint:wrapcheck // The caller names the value.
	}
	plain, err := w.key.Open(s, strings.Join(path, ":")+":")
	if err != nil {
		return "", "", err //nolint:wrapcheck // As above.
	}
	value, err := canonical(string(plain), s.Type)
	return value, s.Type, err
}

// canonical is a value's text as the MAC has it.
func canonical(text string, kind seal.Type) (string, error) {
	var err error
	switch kind {
	case seal.Str, seal.Bytes, seal.Comment:
	case seal.Int:
		var n int
		n, err = strconv.Atoi(text)
		text = strconv.Itoa(n)
	case seal.Float:
		var f float64
		f, err = strconv.ParseFloat(text, 64)
		text = strconv.FormatFloat(f, 'f', -1, 64)
	case seal.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		text = boolean(b)
	case seal.Time:
		var t time.Time
		var out []byte
		if err = t.UnmarshalText([]byte(text)); err == nil {
			out, err = t.MarshalText()
		}
		text = string(out)
	}
	if err != nil {
		return "", fmt.Errorf("%w: it is no %s, as its type says", sops.ErrFormat, kind) // Its text must not be shown.
	}
	return text, nil
}

func boolean(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// readable is the text, as the MAC has it, of a value that is not encrypted.
func readable(v *jsontree.Value) (string, seal.Type, error) {
	text, _ := v.Text()
	switch v.Kind {
	case jsontree.Bool:
		return boolean(text == "true"), seal.Bool, nil
	case jsontree.Number:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return strconv.FormatInt(n, 10), seal.Int, nil
		}
		f, err := canonical(text, seal.Float)
		return f, seal.Float, err
	case jsontree.String, jsontree.Null, jsontree.Array, jsontree.Object:
	}
	return text, seal.Str, nil
}
