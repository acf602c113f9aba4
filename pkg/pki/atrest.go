package pki

import (
	"bytes"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// maxSealedBytes bounds what OpenKey reads and returns.
const maxSealedBytes = 16 << 20

// SealKey encrypts a private key, or anything as precious, for keeping it at
// rest: an ASCII-armored age file.
func SealKey(secret []byte, recipients ...age.Recipient) ([]byte, error) {
	var buf bytes.Buffer
	a := armor.NewWriter(&buf)
	w, err := age.Encrypt(a, recipients...)
	if err == nil {
		_, err = w.Write(secret)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypting key: %w", err)
	}
	return buf.Bytes(), nil
}

// OpenKey decrypts what SealKey made, and plain binary age files too.
func OpenKey(sealed []byte, identities ...age.Identity) ([]byte, error) {
	if len(sealed) > maxSealedBytes {
		return nil, fmt.Errorf("decrypting key: %d bytes, at most %d", len(sealed), maxSealedBytes)
	}
	var src io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(bytes.TrimLeft(sealed, " \t\r\n"), []byte(armor.Header)) {
		src = armor.NewReader(src)
	}
	r, err := age.Decrypt(src, identities...)
	if err != nil {
		return nil, fmt.Errorf("decrypting key: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSealedBytes))
	if err != nil {
		return nil, fmt.Errorf("decrypting key: %w", err)
	}
	return b, nil
}
