package generator

import (
	"bytes"
	"context"
	_ "embed" // The word list.
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
)

//go:embed words/eff-large.txt
var wordList string

// words are those of the list: each of 3 to 9 letters, and none the beginning
// of another.
var words = sync.OnceValue(func() []string { return strings.Fields(wordList) })

// leastEntropyBits is what a password has at least that stands on no other leg:
// at a million guesses a second, which yescrypt is far from, it takes decades.
const leastEntropyBits = 50

// passwordStyle is the settings of all that draws passwords.
type passwordStyle struct {
	Style    string `json:"style" doc:"words, joined by dashes, or characters"`
	Words    int    `json:"words" doc:"how many words, of a list of 7772 (12.9 bits each)"`
	Length   int    `json:"length" doc:"how many characters"`
	Alphabet string `json:"alphabet" doc:"of characters: alphanumeric (5.95 bits each), or printable (6.55 bits each)"`
}

// sixWords is what clan has xkcdpass draw.
var sixWords = passwordStyle{Style: "words", Words: 6, Length: 24, Alphabet: "alphanumeric"}

// alphabets of characters; the printable ones are those of ASCII but the space.
var alphabets = map[string]string{
	"alphanumeric": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
	"printable":    "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~",
}

func (s passwordStyle) check() error {
	err := errors.Join(oneOf("style", s.Style, "words", "characters"), oneOf("alphabet", s.Alphabet, "alphanumeric", "printable"),
		between("words", s.Words, 1, 32), between("length", s.Length, 1, 256))
	if err == nil && s.entropyBits() < leastEntropyBits {
		err = fmt.Errorf("such a password has %.1f bits of entropy: want at least %d, which are 4 words or 9 characters", s.entropyBits(), leastEntropyBits)
	}
	return err
}

func (s passwordStyle) entropyBits() float64 {
	if s.Style == "words" {
		return float64(s.Words) * math.Log2(float64(len(words())))
	}
	return float64(s.Length) * math.Log2(float64(len(alphabets[s.Alphabet])))
}

// draw a password.
func (s passwordStyle) draw(random io.Reader) ([]byte, error) {
	n, delimiter, pick := s.Words, "-", words()
	if s.Style == "characters" {
		n, delimiter, pick = s.Length, "", strings.Split(alphabets[s.Alphabet], "")
	}
	// Enough for the longest, so that no part is left in memory by growing.
	password := make([]byte, 0, n*10)
	for i := range n {
		chosen, err := below(random, len(pick))
		if err != nil {
			clear(password)
			return nil, err
		}
		if i > 0 {
			password = append(password, delimiter...)
		}
		password = append(password, pick[chosen]...)
	}
	return password, nil
}

// passwordFiles draws a password, or takes the answer to a prompt, and hashes it.
type passwordFiles struct {
	style          passwordStyle
	hash           string // empty: none
	password, file string // names of the files
	prompt         string // its name; empty: none is asked
}

func (p passwordFiles) run(ctx context.Context, random io.Reader, in Inputs) (Files, error) {
	// Newlines are not of the password, as in clan's scripts.
	password := bytes.ReplaceAll(in.Prompts[p.prompt].Bytes(), []byte("\n"), nil)
	if len(password) == 0 {
		var err error
		if password, err = p.style.draw(random); err != nil {
			return nil, err
		}
	}
	files := Files{p.password: NewValue(password)}
	if p.hash == "" {
		return files, nil
	}
	if ctx.Err() != nil {
		files.Clear()
		return nil, context.Cause(ctx)
	}
	hash, err := hashPassword(random, p.hash, password)
	if err != nil {
		files.Clear()
		return nil, err
	}
	files[p.file] = NewValue(hash)
	return files, nil
}

func (p passwordFiles) generator(files ...File) *Generator {
	g := &Generator{Files: files, EntropyBits: p.style.entropyBits(), run: p.run}
	if p.prompt != "" {
		g.Prompts = []Prompt{{Name: p.prompt, Type: Hidden, Persist: true, Description: "Leave empty to generate automatically"}}
	}
	return g
}

type passwordSettings struct {
	passwordStyle

	File string `json:"file" doc:"name of the password's file"`
	Hash string `json:"hash" doc:"none, yescrypt or sha512; the hash is in FILE-hash"`
}

func passwordKind() Kind {
	k := Kind{Name: "password", Summary: "a password for a service, with a hash of it where wanted"}
	return newKind(k, passwordSettings{passwordStyle: sixWords, File: "password", Hash: "none"}, func(_ string, s passwordSettings) (*Generator, error) {
		err := errors.Join(s.check(), fileName("file", s.File), oneOf("hash", s.Hash, "none", hashYescrypt, hashSHA512))
		if err != nil {
			return nil, err
		}
		p := passwordFiles{style: s.passwordStyle, password: s.File}
		files := []File{secret(s.File)}
		if s.Hash != "none" {
			p.hash, p.file = s.Hash, s.File+"-hash"
			files = append(files, secret(p.file))
		}
		return p.generator(files...), nil
	})
}

type loginSettings struct {
	passwordStyle

	Hash string `json:"hash" doc:"yescrypt or sha512"`
}

func (s loginSettings) check() error {
	return errors.Join(s.passwordStyle.check(), oneOf("hash", s.Hash, hashYescrypt, hashSHA512))
}

func emergencyAccessKind() Kind {
	k := Kind{Name: "emergency-access", Summary: "a machine's recovery password, which people only read, and its hash, which is secret too", Clan: "emergency-access"}
	return newKind(k, loginSettings{sixWords, hashYescrypt}, func(machine string, s loginSettings) (*Generator, error) {
		if err := errors.Join(wantMachine(machine), s.check()); err != nil {
			return nil, err
		}
		p := passwordFiles{style: s.passwordStyle, hash: s.Hash, password: "password", file: "password-hash"}
		return p.generator(kept(secret(p.password)), secret(p.file)), nil
	})
}

type accountSettings struct {
	loginSettings

	Prompt bool `json:"prompt" doc:"ask for the password; an empty answer has one drawn"`
}

func rootPasswordKind() Kind {
	k := Kind{Name: "root-password", Summary: "root's password, asked for or drawn, and its hash for the users' phase", Clan: "root-password"}
	return accountKind(k, "password")
}

func userPasswordKind() Kind {
	k := Kind{Name: "user-password", Summary: "a user's password, asked for or drawn, and its hash for the users' phase", Clan: "user-password-USER"}
	return accountKind(k, "user-password")
}

func accountKind(k Kind, file string) Kind {
	return newKind(k, accountSettings{loginSettings{sixWords, hashYescrypt}, true}, func(_ string, s accountSettings) (*Generator, error) {
		if err := s.check(); err != nil {
			return nil, err
		}
		p := passwordFiles{style: s.passwordStyle, hash: s.Hash, password: file, file: file + "-hash"}
		if s.Prompt {
			p.prompt = file
		}
		hash := secret(p.file)
		hash.NeededFor = ForUsers
		return p.generator(kept(secret(p.password)), hash), nil
	})
}
