// A plugin of age for tests: what it says of a key is the key. With the environment variable
// NOTE_ASKS it asks for a touch first.
package main

import (
	"errors"
	"os"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

type note []byte

func (n note) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: "note", Args: []string{string(n)}, Body: fileKey}}, nil
}

func main() {
	p, err := plugin.New("note")
	if err != nil {
		os.Exit(1)
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return note(data), nil })
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return identity{p, data}, nil })
	os.Exit(p.Main())
}

type identity struct {
	p    *plugin.Plugin
	name []byte
}

func (i identity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != "note" || len(s.Args) != 1 || s.Args[0] != string(i.name) {
			continue
		}
		if os.Getenv("NOTE_ASKS") != "" {
			if yes, err := i.p.Confirm("touch it", "touched", "no"); err != nil || !yes {
				return nil, errors.New("it was not touched")
			}
		}
		return s.Body, nil
	}
	return nil, age.ErrIncorrectIdentity
}
