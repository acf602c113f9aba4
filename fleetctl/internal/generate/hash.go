package generate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// validationHash is clan's: SHA-256 of the JSON that Nix writes. "" where there is nothing
// to validate.
func validationHash(validation map[string]any) (string, error) {
	if validation == nil {
		return "", nil
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(validation); err != nil {
		return "", fmt.Errorf("encoding its validation: %w", err)
	}
	text := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	// Go escapes the line separators of Unicode, which Nix does not.
	text = unescape(text)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// unescape puts U+2028 and U+2029 as they are; a backslash before one that is escaped
// itself stays.
func unescape(text []byte) []byte {
	var out []byte
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\' || i+1 == len(text):
			out = append(out, text[i])
		case bytes.HasPrefix(text[i:], []byte(`\u2028`)):
			out, i = append(out, "\u2028"...), i+5
		case bytes.HasPrefix(text[i:], []byte(`\u2029`)):
			out, i = append(out, "\u2029"...), i+5
		default:
			out, i = append(out, text[i], text[i+1]), i+1
		}
	}
	return out
}
