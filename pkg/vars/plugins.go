package vars

import (
	"errors"

	"filippo.io/age"
)

// anyPlugin takes every public key of a plugin, to check its form; it starts none.
type anyPlugin struct{}

var errNoPlugin = errors.New("a key of a plugin is only looked at here")

func (anyPlugin) Recipient(string) (age.Recipient, error) { return unusable{}, nil }
func (anyPlugin) Identity(string) (age.Identity, error)   { return nil, errNoPlugin }

type unusable struct{}

func (unusable) Wrap([]byte) ([]*age.Stanza, error) { return nil, errNoPlugin }
