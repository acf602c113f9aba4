package sshca

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// Revoked is what a revocation list names of certificates of one CA, and of keys of
// whoever signed them.
type Revoked struct {
	// CA is the .pub line of the key that signed the certificates.
	CA []byte
	// Serials of certificates; none is 0, which is that of host certificates.
	Serials []uint64
	// Keys are .pub lines of keys that nothing is to be trusted for, certified or not.
	Keys [][]byte
}

// The format is OpenSSH's, PROTOCOL.krl.
const (
	krlMagic         = 0x5353484b524c0a00 // "SSHKRL\n\0"
	krlFormat        = 1
	krlCertificates  = 1
	krlExplicitKeys  = 2
	krlSerialList    = 0x20
	maxRevocations   = 1 << 20
	maxRevokedKeyLen = 64 << 10
)

// RevocationList is what sshd reads as RevokedKeys. version counts lists: sshd does not
// compare, people may.
func RevocationList(r Revoked, version uint64, made time.Time, comment string) ([]byte, error) {
	if len(r.Serials)+len(r.Keys) > maxRevocations {
		return nil, fmt.Errorf("making a revocation list: %d revocations, at most %d", len(r.Serials)+len(r.Keys), maxRevocations)
	}
	if err := checkComment(comment); err != nil {
		return nil, fmt.Errorf("making a revocation list: %w", err)
	}
	list := binary.BigEndian.AppendUint64(nil, krlMagic)
	list = binary.BigEndian.AppendUint32(list, krlFormat)
	list = binary.BigEndian.AppendUint64(list, version)
	list = binary.BigEndian.AppendUint64(list, uint64(max(made.Unix(), 0))) //nolint:gosec // Not negative.
	list = binary.BigEndian.AppendUint64(list, 0)                           // flags
	list = appendString(list, nil)                                          // reserved
	list = appendString(list, []byte(comment))
	if len(r.Serials) > 0 {
		section, err := r.certificates()
		if err != nil {
			return nil, fmt.Errorf("making a revocation list: %w", err)
		}
		list = appendString(append(list, krlCertificates), section)
	}
	if len(r.Keys) > 0 {
		section, err := r.keys()
		if err != nil {
			return nil, fmt.Errorf("making a revocation list: %w", err)
		}
		list = appendString(append(list, krlExplicitKeys), section)
	}
	return list, nil
}

// certificates is the section about those of the CA, its serials ascending, each once.
func (r Revoked) certificates() ([]byte, error) {
	ca, err := parsePublic(r.CA)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	serials := slices.Compact(slices.Sorted(slices.Values(r.Serials)))
	if serials[0] == 0 {
		return nil, errors.New("serial 0 is that of host certificates, all of which would be revoked")
	}
	section := appendString(nil, ca.Marshal())
	section = appendString(section, nil) // reserved
	var data []byte
	for _, s := range serials {
		data = binary.BigEndian.AppendUint64(data, s)
	}
	return appendString(append(section, krlSerialList), data), nil
}

// keys is the section of keys, in order, each once.
func (r Revoked) keys() (section []byte, err error) {
	var blobs []string
	for _, line := range r.Keys {
		if len(line) > maxRevokedKeyLen {
			return nil, fmt.Errorf("a key of %d bytes, at most %d", len(line), maxRevokedKeyLen)
		}
		key, err := parsePublic(line)
		if err != nil {
			return nil, fmt.Errorf("a key: %w", err)
		}
		if cert, is := key.(*ssh.Certificate); is {
			key = cert.Key
		}
		blobs = append(blobs, string(key.Marshal()))
	}
	slices.Sort(blobs)
	for _, b := range slices.Compact(blobs) {
		section = appendString(section, []byte(b))
	}
	return section, nil
}

func appendString(to, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(s))), s...) //nolint:gosec // Bounded by its callers.
}

// Fingerprint of the key of a .pub or -cert.pub line, as ssh-keygen -l shows it.
func Fingerprint(line []byte) (string, error) {
	key, err := parsePublic(line)
	if err != nil {
		return "", err
	}
	if cert, is := key.(*ssh.Certificate); is {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key), nil
}
