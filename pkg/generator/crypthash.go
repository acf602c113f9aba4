package generator

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	"github.com/go-crypt/x/crypt"
	"github.com/go-crypt/x/yescrypt"
)

// The kinds of hashes that hosts check passwords against.
const (
	hashYescrypt = "yescrypt"
	hashSHA512   = "sha512"
)

const (
	// yescryptPrefix is libxcrypt's default cost, which mkpasswd uses as well:
	// 4096 blocks of 4 KB, so 16 MB and some tens of milliseconds.
	yescryptPrefix = "$y$j9T$"
	// sha512Prefix goes with sha512Rounds, crypt(3)'s default.
	sha512Prefix = "$6$"
	sha512Rounds = 5000

	saltBytes = 16
	// maxPasswordBytes is crypt(3)'s: a longer password nobody can log in with.
	maxPasswordBytes = 511
)

// cryptAlphabet has the digits of crypt(3)'s base 64.
const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// hashPassword is crypt(3) with a new salt, as mkpasswd -s prints it, without
// the newline.
func hashPassword(random io.Reader, how string, password []byte) ([]byte, error) {
	salt, err := draw(random, saltBytes)
	if err != nil {
		return nil, err
	}
	switch how {
	case hashYescrypt:
		return cryptPassword(append([]byte(yescryptPrefix), yescrypt.Encode64(salt)...), password)
	case hashSHA512:
		for i, b := range salt {
			salt[i] = cryptAlphabet[b%64]
		}
		return cryptPassword(append([]byte(sha512Prefix), salt...), password)
	}
	return nil, fmt.Errorf("no way of hashing passwords is called %q", how)
}

// cryptPassword is crypt(3): setting is a prefix and a salt.
func cryptPassword(setting, password []byte) ([]byte, error) {
	if err := checkPassword(password); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(setting, []byte(yescryptPrefix)) {
		hash, err := yescrypt.Hash(password, setting)
		if err != nil {
			return nil, errors.New("hashing the password with yescrypt failed") // The cause may quote.
		}
		return hash, nil
	}
	// In crypt(3)'s order and base 64 already.
	key := crypt.KeySHACrypt(sha512.New, password, bytes.TrimPrefix(setting, []byte(sha512Prefix)), sha512Rounds)
	return append(append(bytes.Clone(setting), '$'), key...), nil
}

// checkPassword refuses what no login takes.
func checkPassword(password []byte) error {
	switch {
	case len(password) == 0:
		return errors.New("the password is empty")
	case len(password) > maxPasswordBytes:
		return fmt.Errorf("the password is longer than %d bytes: nobody could log in with it", maxPasswordBytes)
	case bytes.IndexByte(password, 0) >= 0:
		return errors.New("the password has a zero byte in it: nobody could log in with it")
	}
	return nil
}
