package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// Sentinels that errors of this package wrap.
var (
	// ErrFormat is what is no sops document, or one that sops would not have written.
	ErrFormat = errors.New("not a sops document")
	// ErrTampered is a value or a MAC that does not open under the data key, or a MAC of
	// other values.
	ErrTampered = errors.New("changed since it was encrypted, or damaged")
	// ErrNoIdentity is a document that none of the identities opens.
	ErrNoIdentity = errors.New("none of the keys at hand opens it")
	// ErrUnsupported is what sops can do and this cannot; the error names it.
	ErrUnsupported = errors.New("not supported here")
)

// What sops seals values with.
const (
	keySize   = 32
	nonceSize = 32
	tagSize   = 16
	// maxNonce bounds what is accepted; sops writes nonceSize.
	maxNonce = 64
)

// Type is the type of a sealed value.
type Type string

// The types that sops writes.
const (
	Str     Type = "str"
	Bytes   Type = "bytes"
	Int     Type = "int"
	Float   Type = "float"
	Bool    Type = "bool"
	Time    Type = "time"
	Comment Type = "comment"
)

// Value is a value as it stands in a file, ENC[…], not opened.
type Value struct {
	data, nonce, tag []byte
	Type             Type
}

// ParseValue reads ENC[AES256_GCM,data:D,iv:I,tag:T,type:X].
func ParseValue(s string) (Value, error) {
	rest, ok := strings.CutPrefix(s, "ENC[AES256_GCM,")
	if ok {
		rest, ok = strings.CutSuffix(rest, "]")
	}
	parts := strings.Split(rest, ",")
	if !ok || len(parts) != 4 {
		return Value{}, fmt.Errorf("%w: a value is not of the form ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]", ErrFormat)
	}
	var v Value
	for i, p := range []struct {
		name string
		to   *[]byte
	}{{"data", &v.data}, {"iv", &v.nonce}, {"tag", &v.tag}} {
		text, ok := strings.CutPrefix(parts[i], p.name+":")
		if !ok || strings.ContainsAny(text, "\r\n") {
			return Value{}, fmt.Errorf("%w: a value has no %s where it should be", ErrFormat, p.name)
		}
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return Value{}, fmt.Errorf("%w: %s of a value is not base64", ErrFormat, p.name)
		}
		*p.to = b
	}
	kind, ok := strings.CutPrefix(parts[3], "type:")
	switch t := Type(kind); t {
	case Str, Bytes, Int, Float, Bool, Time, Comment:
		v.Type = t
	default:
		ok = false
	}
	if !ok || len(v.data) == 0 || len(v.nonce) == 0 || len(v.nonce) > maxNonce || len(v.tag) != tagSize {
		return Value{}, fmt.Errorf("%w: a value's type, or the length of its parts, is none that sops writes", ErrFormat)
	}
	return v, nil
}

// Size is the number of bytes of the plaintext, which a ciphertext does not hide.
func (v Value) Size() int { return len(v.data) }

// DataKey is the key of one document.
type DataKey [keySize]byte

// NewDataKey returns a random key.
func NewDataKey() *DataKey {
	var k DataKey
	_, _ = rand.Read(k[:]) // It cannot fail.
	return &k
}

// Open returns a value's plaintext. aad is what it is bound to.
func (k *DataKey) Open(v Value, aad string) ([]byte, error) {
	gcm, err := k.gcm(len(v.nonce))
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, v.nonce, slices.Concat(v.data, v.tag), []byte(aad))
	if err != nil {
		return nil, ErrTampered
	}
	return plain, nil
}

// Seal returns ENC[…] of a plaintext, with a new nonce; of an empty one it is "", as with sops.
func (k *DataKey) Seal(plain []byte, kind Type, aad string) (string, error) {
	if len(plain) == 0 {
		return "", nil
	}
	gcm, err := k.gcm(nonceSize)
	if err != nil {
		return "", err
	}
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // It cannot fail.
	sealed := gcm.Seal(nil, nonce[:], plain, []byte(aad))
	b64 := base64.StdEncoding.EncodeToString
	at := len(sealed) - tagSize
	return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:%s]", b64(sealed[:at]), b64(nonce[:]), b64(sealed[at:]), kind), nil
}

func (k *DataKey) gcm(nonce int) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, nonce)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return gcm, nil
}

// MAC is over the plaintexts of a document's leaves, in order.
type MAC struct{ hash.Hash }

// onlyEncrypted begins a MAC that leaves out what is not encrypted.
var onlyEncrypted = []byte{
	0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
	0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
}

// NewMAC begins a MAC; of encrypted leaves only, where the document says mac_only_encrypted.
func NewMAC(encryptedOnly bool) MAC {
	m := MAC{sha512.New()}
	if encryptedOnly {
		_, _ = m.Write(onlyEncrypted)
	}
	return m
}

func (m MAC) String() string { return fmt.Sprintf("%X", m.Sum(nil)) }
