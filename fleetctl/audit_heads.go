package fleetctl

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/auditlog"
	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// maxHeadsFile bounds a file of heads, in bytes.
const maxHeadsFile = 32 << 20

func newAuditHeadsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "heads",
		Short: "List what is known of the event log apart from the coordinator",
		Long: `List the records of the event log that somebody remembers: you, from the last
status; other operators, who countersigned them; hosts, which were told of those and
say so in their signed reports. A log that was written anew lacks them: an ALARM, and
exit code 3.

Each line begins with NUMBER:HASH, as audit verify takes it: what this prints before
an export is what the export must have.

JSON: {head: {seq, hash}, known, lost: [{seq, hash, who}], heads: [{seq, hash, who}]}`,
		Example: `  fleetctl audit heads > heads
  fleetctl audit export log.jsonl
  fleetctl audit verify --heads heads log.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditHeads(cmd.Context(), o) },
	}
}

func newAuditAcceptCommand(o *options) *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "accept --reason TEXT",
		Short: "Record why the event log lacks records that were seen",
		Long: `Record in trust/lost-heads.json that the records which status finds missing are
gone, and why: a backup was restored, or the coordinator began anew. They are listed,
and recorded after a yes. Commit the file: then nobody is told of them again.

JSON: {accepted: [{seq, hash, who}]}`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditAccept(cmd.Context(), o, reason, yes) },
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for people (required)")
	cmd.Flags().BoolVar(&yes, "yes", false, "record them without asking")
	_ = cmd.MarkFlagRequired("reason") // Fails only for a flag that isn't there.
	return cmd
}

// lookEverywhere looks at the log with what all hosts say: at all of it, or it is
// an error.
func (o *options) lookEverywhere(ctx context.Context, s *session) (*logLook, error) {
	wire, err := newTripwire(s.workspace)
	if err != nil {
		return nil, err
	}
	if _, err := s.HostsReported(ctx, "", wire.check); err != nil && !errors.Is(err, client.ErrNotFound) {
		return nil, err
	}
	l := o.lookAt(ctx, s, wire.echoed(), lookBounds{echoes: maxEchoes, records: math.MaxUint64})
	if l.err != nil {
		return nil, l.verdict()
	}
	return l, nil
}

// connectAndLook begins a session, which the caller closes, with such a look.
func (o *options) connectAndLook(ctx context.Context) (*session, *logLook, error) {
	s, err := o.connect()
	if err != nil {
		return nil, nil, err
	}
	l, err := o.lookEverywhere(ctx, s)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, l, nil
}

func runAuditHeads(ctx context.Context, o *options) error {
	s, l, err := o.connectAndLook(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	heads := []lostHead{}
	for h, who := range l.known {
		heads = append(heads, lostHead{h, who})
	}
	slices.SortFunc(heads, func(a, b lostHead) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Hash, b.Hash)) })
	p := o.printer()
	if p.JSON() {
		if err := p.Value(struct {
			*logLook
			Heads []lostHead `json:"heads"`
		}{l, heads}); err != nil {
			return err
		}
	} else {
		for _, h := range heads {
			p.Printf("%d:%s  %s\n", h.Seq, h.Hash, plainText(h.Who))
		}
		l.show(p)
	}
	return errors.Join(l.verdict(), l.keep(ctx, o, s, o.Stderr))
}

func runAuditAccept(ctx context.Context, o *options, reason string, yes bool) error {
	if n := len(strings.TrimSpace(reason)); n == 0 || n > fleet.MaxReasonBytes {
		return usageError{fmt.Errorf("a reason is needed, of at most %d bytes", fleet.MaxReasonBytes)}
	}
	s, l, err := o.connectAndLook(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	accepted := l.Lost
	p := o.printer()
	if len(accepted) > 0 {
		if !p.JSON() {
			for _, h := range accepted {
				p.Printf("%d:%s  %s\n", h.Seq, h.Hash, plainText(h.Who))
			}
		}
		if err := o.confirm("Record that these are gone from the event log, which ends with "+strconv.FormatUint(l.Head.Seq, 10)+"?", yes); err != nil {
			return err
		}
		if err := l.accept(s.workspace, "operator/"+s.operator, strings.TrimSpace(reason), o.Now()); err != nil {
			return err
		}
	}
	// They are recorded, whatever becomes of what follows.
	switch {
	case p.JSON():
		if err := p.Value(map[string][]lostHead{"accepted": accepted}); err != nil {
			return err
		}
	case len(accepted) == 0:
		p.Printf("Nothing is missing: the event log has all that is known of it.\n")
	default:
		p.Printf("%s recorded as lost in trust/lost-heads.json: commit it.\n", plural(len(accepted), "record"))
	}
	if len(accepted) > 0 {
		if l, err = o.lookEverywhere(ctx, s); err != nil {
			return err
		}
		if !p.JSON() {
			l.show(p)
		}
	}
	return errors.Join(l.verdict(), l.keep(ctx, o, s, o.Stderr))
}

// readHeads reads a file of lines that begin with a head.
func readHeads(name string) ([]auditlog.Head, error) {
	f, err := os.Open(name) //nolint:gosec // The operator names it.
	if err != nil {
		return nil, usageError{err}
	}
	defer f.Close() //nolint:errcheck // Only read.
	heads, err := parseHeads(f)
	if err != nil {
		return nil, usageError{ui.WithHint(fmt.Errorf("%s: %w", name, err), "make it with fleetctl audit heads")}
	}
	return heads, nil
}

// parseHeads reads what audit heads prints, of at most maxHeadsFile bytes. Those
// that are missing from the log stand there too, as lines of an alarm.
func parseHeads(r io.Reader) (out []auditlog.Head, err error) {
	limited := &io.LimitedReader{R: r, N: maxHeadsFile + 1}
	defer func() {
		if limited.N <= 0 { // What is wrong then is at the cut.
			out, err = nil, fmt.Errorf("it is larger than %d bytes", maxHeadsFile)
		}
	}()
	lines := bufio.NewScanner(limited)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), " ")
		if text == "" || strings.HasPrefix(text, "ALARM") {
			continue
		}
		h, err := auditlog.ParseHead(text)
		if err != nil {
			return nil, err //nolint:wrapcheck // It says what failed.
		}
		out = append(out, h)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading heads: %w", err)
	}
	return out, nil
}
