package pki

import (
	"encoding/pem"
	"errors"
)

// keyBlock is the type of a private key's PEM block.
const keyBlock = "PRIVATE KEY"

// EncodeKey is a private key in PKCS #8 DER as PEM.
func EncodeKey(pkcs8 []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: pkcs8})
}

// DecodeKey returns the PKCS #8 DER of a private key in PEM, which ParseKey reads.
func DecodeKey(text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("it is no PKCS #8 private key in PEM")
	}
	return block.Bytes, nil
}
