// Package ageplugin has sops documents use age's plugins: programs age-plugin-NAME on the
// PATH, which may ask people for a touch or a PIN. Programs that run unattended, the agent
// above all, do not link it.
package ageplugin

import (
	"errors"
	"fmt"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Plugins starts plugins.
type Plugins struct {
	ui *plugin.ClientUI
}

var _ sops.Plugins = Plugins{}

// New returns Plugins that ask and tell people through ui; nil refuses what a plugin asks.
func New(ui *plugin.ClientUI) Plugins {
	if ui == nil {
		refuse := errors.New("the plugin asks for something, and nobody is there to answer")
		ui = &plugin.ClientUI{
			DisplayMessage: func(string, string) error { return nil },
			RequestValue:   func(string, string, bool) (string, error) { return "", refuse },
			Confirm:        func(string, string, string, string) (bool, error) { return false, refuse },
			WaitTimer:      func(string) {},
		}
	}
	return Plugins{ui}
}

// Recipient returns the public key age1NAME1….
func (p Plugins) Recipient(text string) (age.Recipient, error) {
	r, err := plugin.NewRecipient(text, p.ui)
	if err != nil {
		return nil, fmt.Errorf("public key of a plugin: %w", err)
	}
	return r, nil
}

// Identity returns the private key AGE-PLUGIN-NAME-1….
func (p Plugins) Identity(text string) (age.Identity, error) {
	id, err := plugin.NewIdentity(text, p.ui)
	if err != nil {
		return nil, errors.New("malformed private key of a plugin") // Its text must not be shown.
	}
	return id, nil
}
