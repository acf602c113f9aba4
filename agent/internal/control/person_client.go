package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// PersonClient asks the agent of this machine as the person at the console.
type PersonClient struct{ path string }

// NewPersonClient makes one for the agent with that run directory. Its calls return
// ErrNoAgent where nothing listens, as before a generation came that owes the person
// anything, ErrNotAllowed to who is not at the console, and ErrNotPossible.
func NewPersonClient(runDir string) *PersonClient {
	return &PersonClient{path: PersonSocketPath(runDir)}
}

// Status asks for what the person at the console may see; for all, as root.
func (c *PersonClient) Status(ctx context.Context) (Status, error) {
	r, err := c.ask(ctx, question{Do: "status"})
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil {
		return Status{}, errors.New("asking the agent: an answer without a status")
	}
	return *r.Status, nil
}

// Postpone puts off all that waits for the person at the console; 0 is for as long as may
// be.
func (c *PersonClient) Postpone(ctx context.Context, ask time.Duration) ([]Postponed, error) {
	r, err := c.ask(ctx, question{Do: "postpone", For: fleet.Duration(ask)})
	return r.Postponed, err
}

func (c *PersonClient) ask(ctx context.Context, q question) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*personTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	if err != nil {
		return r, fmt.Errorf("%w: %s does not answer: %w", ErrNoAgent, c.path, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	line, err := json.Marshal(q)
	if err != nil {
		return r, fmt.Errorf("asking the agent: %w", err)
	}
	_, werr := conn.Write(append(line, '\n'))
	line, err = bufio.NewReader(io.LimitReader(conn, maxAnswerBytes)).ReadBytes('\n')
	if err != nil {
		return r, ui.WithHint(fmt.Errorf("asking the agent: no answer: %w", errors.Join(werr, err)), "it answers few at a time: ask again")
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("asking the agent: %w", err)
	}
	return r, r.error()
}

func (r reply) error() error {
	text := refusal.Plain(r.Reason.Message)
	var err error
	switch r.Refused {
	case "":
		return nil
	case notAllowed:
		err = fmt.Errorf("%w: %s", ErrNotAllowed, text)
	case notPossible:
		err = fmt.Errorf("%w: %s", ErrNotPossible, text)
	default:
		err = errors.New(text)
	}
	return ui.WithHint(err, refusal.Plain(r.Reason.Hint))
}
