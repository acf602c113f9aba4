// Package sshca makes SSH keys and certificates as ssh-keygen writes them, so
// that what comes of either can take the other's place.
package sshca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Pair is a key pair as two files.
type Pair struct {
	// Private is in OpenSSH's format, without a passphrase. Who got it clears it
	// after use, and gives a file of it mode 0600, which ssh insists on.
	Private []byte
	// Public is the line of the .pub file: type, key, a space, the comment, and
	// a newline, also where the comment is empty.
	Public []byte
}

// NewKey makes an Ed25519 key of 32 bytes of random, which must be
// cryptographically secure, and 4 more. It is ssh-keygen -t ed25519 -N "" -C comment.
func NewKey(random io.Reader, comment string) (Pair, error) {
	if err := checkComment(comment); err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: %w", err)
	}
	var drawn [ed25519.SeedSize + 4]byte
	defer clear(drawn[:])
	if _, err := io.ReadFull(random, drawn[:]); err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: reading random bytes: %w", err)
	}
	key := ed25519.NewKeyFromSeed(drawn[:ed25519.SeedSize])
	defer clear(key)
	public := key.Public().(ed25519.PublicKey)
	fields := ssh.Marshal(struct {
		Public, Private []byte
		Comment         string
	}{public, key, comment})
	return pair(public, fields, comment, binary.BigEndian.Uint32(drawn[ed25519.SeedSize:]))
}

// RSABits bounds the sizes of RSA keys that are made.
const (
	MinRSABits = 2048
	MaxRSABits = 8192
)

// NewRSAKey makes an RSA key, which takes seconds. It is ssh-keygen -t rsa -b bits
// -N "" -C comment. Its random bytes are the system's: RSA takes no others.
func NewRSAKey(bits int, comment string) (Pair, error) {
	if err := checkComment(comment); err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: %w", err)
	}
	if bits < MinRSABits || bits > MaxRSABits {
		return Pair{}, fmt.Errorf("making an SSH key: an RSA key of %d bits: want %d to %d", bits, MinRSABits, MaxRSABits)
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: %w", err)
	}
	var mark [4]byte
	if _, err := io.ReadFull(rand.Reader, mark[:]); err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: reading random bytes: %w", err)
	}
	fields := ssh.Marshal(struct {
		N, E, D, Inverse, P, Q *big.Int
		Comment                string
	}{key.N, big.NewInt(int64(key.E)), key.D, key.Precomputed.Qinv, key.Primes[0], key.Primes[1], comment})
	return pair(&key.PublicKey, fields, comment, binary.BigEndian.Uint32(mark[:]))
}

// pair of a public key and the fields of the private one, which it clears. The
// mark is what tells a reader, twice, that a passphrase was right.
func pair(public any, fields []byte, comment string, mark uint32) (Pair, error) {
	defer clear(fields)
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return Pair{}, fmt.Errorf("making an SSH key: %w", err)
	}
	name := ssh.Marshal(struct{ Name string }{pub.Type()})
	private := make([]byte, 0, 16+len(name)+len(fields))
	private = binary.BigEndian.AppendUint32(private, mark)
	private = binary.BigEndian.AppendUint32(private, mark)
	private = append(append(private, name...), fields...)
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	defer clear(private)
	blob := ssh.Marshal(struct {
		Cipher, KDF, Options string
		Keys                 uint32
		Public, Private      []byte
	}{"none", "none", "", 1, pub.Marshal(), private})
	defer clear(blob)
	return Pair{Private: armor(append([]byte("openssh-key-v1\x00"), blob...)), Public: publicLine(pub, comment)}, nil
}

// armor is ssh-keygen's, of lines of 70 characters where others have 64. It
// clears data.
func armor(data []byte) []byte {
	defer clear(data)
	const begin, end, width = "-----BEGIN OPENSSH PRIVATE KEY-----\n", "-----END OPENSSH PRIVATE KEY-----\n", 70
	text := base64.StdEncoding.AppendEncode(nil, data)
	defer clear(text)
	out := make([]byte, 0, len(begin)+len(text)+len(text)/width+1+len(end))
	out = append(out, begin...)
	for line := range slices.Chunk(text, width) {
		out = append(append(out, line...), '\n')
	}
	return append(out, end...)
}

func publicLine(key ssh.PublicKey, comment string) []byte {
	line := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(key), []byte("\n"))
	return append(append(line, ' '), comment+"\n"...)
}

// checkComment refuses what would end the line that it is in.
func checkComment(comment string) error {
	if len(comment) > 1024 {
		return fmt.Errorf("a comment of %d characters: at most 1024 fit into one", len(comment))
	}
	for _, r := range comment {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("the comment %q has a control character in it: it stands in a line", comment)
		}
	}
	return nil
}

// parsePublic reads the line of a .pub file.
func parsePublic(line []byte) (ssh.PublicKey, error) {
	if len(line) > maxLineBytes {
		return nil, fmt.Errorf("%d bytes are no public SSH key: at most %d are read", len(line), maxLineBytes)
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, errors.New("no public SSH key is there: want the line of a .pub file")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("more than one line is there: want one public SSH key")
	}
	return key, nil
}

const maxLineBytes = 16 << 10

// parseSigner reads a private key without a passphrase. The errors of
// x/crypto/ssh are not repeated: who knows what of the key they quote.
func parseSigner(private []byte) (ssh.Signer, error) {
	if len(private) > maxLineBytes {
		return nil, fmt.Errorf("%d bytes are no private SSH key: at most %d are read", len(private), maxLineBytes)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, errors.New("the private key has a passphrase: store it without one (ssh-keygen -p)")
	}
	if err != nil {
		return nil, errors.New("no private SSH key is there: want a file as ssh-keygen writes it")
	}
	return signer, nil
}
