package fleetctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// errDeclined is a question that was answered with no.
var errDeclined = errors.New("not confirmed; nothing was done")

// confirm asks a question on the terminal, unless yes was said on the command
// line. Off a terminal it must have been.
func (o *options) confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if !o.asks() {
		return usageError{ui.WithHint(errors.New("this wants a confirmation, and there is no terminal to ask on"), "look at what it shows, then say --yes")}
	}
	_, _ = fmt.Fprintf(o.Stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(o.Stdin, 256)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return ui.WithHint(errDeclined, "run it again to be asked again")
}

// asks says whether somebody sits at a terminal who can answer.
func (o *options) asks() bool { return o.terminal || ui.OnTerminal(o.Stdin) && ui.OnTerminal(o.Stderr) }
