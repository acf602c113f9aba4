package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type eventsOptions struct {
	Follow  bool
	From    uint64
	Machine string
}

func newEventsCommand(o *options) *cobra.Command {
	opts := &eventsOptions{}
	cmd := &cobra.Command{
		Use:   "events [MACHINE]",
		Short: "Show the event log",
		Long: `Show the coordinator's event log, or what of it is about MACHINE: who changed
what, and what hosts reported. With
--output json each event is one line: {seq, time, actor, kind, machine, message,
alarm, hash}; hash is what the next record chains to.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if opts.Machine != "" && opts.Machine != args[0] {
					return usageError{ui.WithHint(errors.New("two machines are named"), "name one: as the argument, or with -m")}
				}
				opts.Machine = args[0]
			}
			return runEvents(cmd.Context(), o, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Follow, "follow", "f", false, "go on with new events until interrupted")
	f.Uint64Var(&opts.From, "from", 0, "first sequence `number` (default: the last 50 events)")
	f.StringVarP(&opts.Machine, "machine", "m", "", "only events of this `machine`")
	return cmd
}

// eventResult is one line of the JSON form of events.
type eventResult struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor"`
	Kind    string    `json:"kind"`
	Machine string    `json:"machine"`
	Message string    `json:"message"`
	Alarm   bool      `json:"alarm"`
	Hash    string    `json:"hash"`
}

func runEvents(ctx context.Context, o *options, opts *eventsOptions) error {
	var machine fleet.MachineName
	if opts.Machine != "" {
		m, err := fleet.ParseMachineName(opts.Machine)
		if err != nil {
			return usageError{err}
		}
		machine = m
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	if machine != "" {
		if err := s.knownInEvents(ctx, machine); err != nil {
			return err
		}
	}
	p := o.printer()
	if !p.JSON() {
		p.Printf("%6s  %-19s  %-24s  %-22s  %-12s  %s\n", "SEQ", "TIME (UTC)", "ACTOR", "KIND", "MACHINE", "MESSAGE")
	}
	query := client.EventQuery{From: opts.From, Follow: opts.Follow, Machine: machine}
	show := func(e client.Event) error {
		if p.JSON() {
			return p.Line(eventResult(e))
		}
		p.Printf("%s\n", eventLine(p, e))
		return nil
	}
	return follow(ctx, s.Client, query, show, func(err error) {
		_, _ = fmt.Fprintf(o.Stderr, "waiting for the coordinator: %v\n", err)
	})
}

// knownInEvents is an error where neither the inventory nor any event has the
// machine: a mistyped name would look like a quiet machine.
func (s *session) knownInEvents(ctx context.Context, m fleet.MachineName) error {
	_, unknown := s.machine(string(m))
	if unknown == nil {
		return nil
	}
	found := errors.New("found")
	err := s.Events(ctx, client.EventQuery{From: 1, Machine: m}, func(client.Event) error { return found })
	switch {
	case errors.Is(err, found):
		return nil
	case err != nil:
		return err
	}
	return ui.WithHint(fmt.Errorf("%w; no event is about it either", unknown), "see \"fleetctl status\" for the names")
}

// follow shows events. While it follows and has seen some, a coordinator that
// goes away is waited for, and the log taken up where it ended; waiting is told
// once each time.
func follow(ctx context.Context, c *client.Client, q client.EventQuery, show func(client.Event) error, waiting func(error)) error {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	seen, away := false, false
	for {
		err := c.Events(ctx, q, func(e client.Event) error {
			q.From, seen, away = e.Seq+1, true, false
			pause.Reset()
			return show(e)
		})
		if err == nil || !q.Follow || !seen || !errors.Is(err, client.ErrUnreachable) {
			return err
		}
		if !away {
			waiting(err)
			away = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// eventLine is one event in fixed columns, because a followed log has no end
// at which widths could be known.
func eventLine(p *ui.Printer, e client.Event) string {
	message := e.Message
	if e.Alarm {
		message = p.Paint(ui.ToneBad, "ALARM: "+message)
	}
	return fmt.Sprintf("%6d  %-19s  %-24s  %-22s  %-12s  %s",
		e.Seq, e.Time.UTC().Format(time.DateTime), e.Actor, e.Kind, dash(e.Machine), message)
}
