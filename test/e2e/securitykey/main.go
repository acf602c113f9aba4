//go:build cgo

// Securitykey is a FIDO security key in software for tests: a provider that OpenSSH
// loads in the place of the one that talks to tokens (sk-api.h of OpenSSH 8.9 and
// later, PROTOCOL.u2f). Its only secret is the key handle, which OpenSSH keeps in
// the private key's file. It signs while there is a file "touched" in HOME, and
// otherwise is a token that nobody plugged in.
package main

/*
#include <stdint.h>
#include <stdlib.h>

struct sk_enroll_response {
	uint8_t flags;
	uint8_t *public_key;
	size_t public_key_len;
	uint8_t *key_handle;
	size_t key_handle_len;
	uint8_t *signature;
	size_t signature_len;
	uint8_t *attestation_cert;
	size_t attestation_cert_len;
	uint8_t *authdata;
	size_t authdata_len;
};

struct sk_sign_response {
	uint8_t flags;
	uint32_t counter;
	uint8_t *sig_r;
	size_t sig_r_len;
	uint8_t *sig_s;
	size_t sig_s_len;
};
*/
import "C"

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"
)

// Values of sk-api.h.
const (
	apiVersion     = 0x000a0000
	algEd25519     = 1
	userPresence   = 1
	errGeneral     = -1
	errUnsupported = -2
	errNotFound    = -4
)

func main() {}

//export sk_api_version
func sk_api_version() C.uint32_t { return apiVersion } //nolint:revive // OpenSSH's name, as those below.

//export sk_enroll
func sk_enroll(alg C.uint32_t, challenge *C.uint8_t, challengeLen C.size_t, application *C.char, flags C.uint8_t, pin *C.char, options unsafe.Pointer, out **C.struct_sk_enroll_response) C.int { //nolint:revive // See above.
	if alg != algEd25519 {
		return errUnsupported
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return errGeneral
	}
	r := (*C.struct_sk_enroll_response)(C.calloc(1, C.sizeof_struct_sk_enroll_response))
	r.flags = flags
	r.public_key, r.public_key_len = give(public)
	r.key_handle, r.key_handle_len = give(key.Seed())
	r.signature, r.signature_len = give([]byte{0}) // of the attestation, which nobody looks at
	*out = r
	return 0
}

//export sk_sign
func sk_sign(alg C.uint32_t, data *C.uint8_t, dataLen C.size_t, application *C.char, handle *C.uint8_t, handleLen C.size_t, flags C.uint8_t, pin *C.char, options unsafe.Pointer, out **C.struct_sk_sign_response) C.int { //nolint:revive // See above.
	if alg != algEd25519 || handleLen != ed25519.SeedSize {
		return errUnsupported
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("HOME"), "touched")); err != nil {
		return errNotFound
	}
	r := (*C.struct_sk_sign_response)(C.calloc(1, C.sizeof_struct_sk_sign_response))
	r.flags, r.counter = flags&userPresence, C.uint32_t(time.Now().Unix()) //nolint:gosec // It only grows.
	app := sha256.Sum256([]byte(C.GoString(application)))
	sum := sha256.Sum256(unsafe.Slice((*byte)(data), int(dataLen)))
	rest := binary.BigEndian.AppendUint32([]byte{byte(r.flags)}, uint32(r.counter))
	key := ed25519.NewKeyFromSeed(unsafe.Slice((*byte)(handle), int(handleLen)))
	r.sig_r, r.sig_r_len = give(ed25519.Sign(key, slices.Concat(app[:], rest, sum[:])))
	*out = r
	return 0
}

//export sk_load_resident_keys
func sk_load_resident_keys(pin *C.char, options, keys unsafe.Pointer, count *C.size_t) C.int { //nolint:revive // See above.
	return errUnsupported
}

// give copies bytes into memory that OpenSSH frees.
func give(b []byte) (*C.uint8_t, C.size_t) { return (*C.uint8_t)(C.CBytes(b)), C.size_t(len(b)) }
