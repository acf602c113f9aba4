package fleetctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/auditlog"
	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const auditHelp = `The coordinator's event log is a chain: each record names the hash of the one
before. An export is the records as they are stored, one a line, so that the chain
can be verified without the coordinator, and compared with an earlier export.`

func newAuditCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Export the event log and verify it",
		Long:  auditHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	opts := &auditVerifyOptions{}
	verify := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Verify exports of the event log, and compare them with the repository",
		Long: `Verify the chain of an export, or of several in order, which may overlap, and name
the first record that is not what was written. Each --head, and each line of
--heads, must be on the chain: NUMBER:HASH, as an earlier verify or audit heads
printed it.

Then compare with releases/: a release, or a generation that runs somewhere, which
the repository lacks was signed by somebody else. Exit code 3 where anything is
found. No coordinator is asked; "-" is standard input.

JSON: {first, last, hash, heads, findings, missing}`,
		Example: `  fleetctl audit export log.jsonl
  fleetctl audit verify log.jsonl
  fleetctl audit verify --head 1042:9f86… log.jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runAuditVerify(o, opts, args) },
	}
	verify.Flags().StringArrayVar(&opts.Heads, "head", nil, "a record that is known, `NUMBER:HASH`; may be repeated")
	verify.Flags().StringVar(&opts.HeadsFile, "heads", "", "`file` of records that are known, as audit heads prints them")
	from := uint64(0)
	export := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write the event log as JSON lines",
		Long: `Write the records of the event log, one a line, to FILE, or to standard output.
Where FILE has records already it goes on behind the last one, after checking that
the log continues it: an export that was interrupted is resumed, and one that is
repeated shows a log that was rewritten.`,
		Example: `  fleetctl audit export log.jsonl
  fleetctl audit export --from 1000 | tail -1`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runAuditExport(cmd.Context(), o, from, args) },
	}
	export.Flags().Uint64Var(&from, "from", 0, "first sequence `number`; not for a FILE that has records")
	cmd.AddCommand(export, verify, newAuditHeadsCommand(o), newAuditAcceptCommand(o))
	return cmd
}

func runAuditExport(ctx context.Context, o *options, from uint64, args []string) error {
	if len(args) == 0 {
		out := bufio.NewWriter(o.Stdout)
		_, err := o.export(ctx, out, &auditlog.Verifier{}, from)
		return errors.Join(err, out.Flush())
	}
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return usageError{err}
	}
	defer f.Close() //nolint:errcheck // Synced where it matters.
	v := &auditlog.Verifier{}
	end, err := resumeExport(f, v)
	if err != nil {
		return ui.WithHint(fmt.Errorf("%s: %w", args[0], err), "it was altered, or is no export: keep it, and export to another file")
	}
	if v.Begun() != 0 {
		if from != 0 {
			return usageError{ui.WithHint(errors.New("--from, and a file that has records already"), "leave --from out to go on behind them")}
		}
		from = v.Head().Seq + 1
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	n, err := o.export(ctx, out, v, from)
	if err := errors.Join(err, out.Flush(), f.Sync()); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Added int    `json:"added"`
			Last  uint64 `json:"last"`
			Hash  string `json:"hash"`
		}{n, v.Head().Seq, v.Head().Hash})
	}
	p.Printf("%s added to %s. The last is %d:%s\n", plural(n, "record"), args[0], v.Head().Seq, v.Head().Hash)
	return nil
}

// resumeExport verifies what a file has and returns where to go on: behind the
// last whole line.
func resumeExport(f *os.File, v *auditlog.Verifier) (int64, error) {
	r := bufio.NewReaderSize(f, auditlog.MaxRecord+2)
	var end int64
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return end, nil // What is behind was torn.
		case err != nil:
			return 0, fmt.Errorf("%w: %w", auditlog.ErrRecord, err)
		}
		if err := v.Add(line[:len(line)-1]); err != nil {
			return 0, err
		}
		end += int64(len(line))
	}
}

// export writes records that continue what v has.
func (o *options) export(ctx context.Context, out io.Writer, v *auditlog.Verifier, from uint64) (n int, err error) {
	s, err := o.connect()
	if err != nil {
		return 0, err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	err = s.Export(ctx, from, func(record []byte) error {
		if err := v.Add(record); err != nil {
			return ui.WithHint(fmt.Errorf("%w: %w", client.ErrRefused, err), "find out what has become of the coordinator, and keep the exports that you have")
		}
		n++
		_, err := out.Write(append(record, '\n'))
		return err
	})
	return n, err
}

type auditVerifyOptions struct {
	Heads     []string
	HeadsFile string
}

// auditResult is the JSON form of audit verify.
type auditResult struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Hash  string `json:"hash"`
	// Heads counts the known heads that were found on the chain.
	Heads    int               `json:"heads"`
	Findings []string          `json:"findings"`
	Missing  []fleet.ReleaseID `json:"missing"`
}

// errFindings is a log that is whole, and has what the repository lacks.
var errFindings = fmt.Errorf("%w: the log has what this repository lacks", client.ErrRefused)

func runAuditVerify(o *options, opts *auditVerifyOptions, files []string) error {
	v := &auditlog.Verifier{}
	for _, s := range opts.Heads {
		h, err := auditlog.ParseHead(s)
		if err != nil {
			return usageError{err}
		}
		v.Known = append(v.Known, h)
	}
	if opts.HeadsFile != "" {
		heads, err := readHeads(opts.HeadsFile)
		if err != nil {
			return err
		}
		v.Known = append(v.Known, heads...)
	}
	w, err := o.open()
	if err != nil {
		return err
	}
	rel, err := releasesOf(w)
	if err != nil {
		return err
	}
	v.Each = func(r *auditlog.Record) error { rel.Note(r); return nil }
	at := map[uint64]string{}
	for _, name := range files {
		if err := o.verifyFile(v, name, at); err != nil {
			return err
		}
	}
	if err := v.Finish(); err != nil {
		return broken(err)
	}
	res := auditResult{
		First: v.Begun(), Last: v.Head().Seq, Hash: v.Head().Hash, Heads: v.Met(),
		Findings: append([]string{}, rel.Findings()...), Missing: []fleet.ReleaseID{},
	}
	if res.First == 1 {
		res.Missing = append(res.Missing, rel.Missing()...)
	}
	p := o.printer()
	if p.JSON() {
		if err := p.Value(res); err != nil {
			return err
		}
	} else {
		res.show(p)
	}
	if len(res.Findings) > 0 {
		return ui.WithHint(errFindings, "get the other publishers' commits and verify again; if nobody published it, a release key is stolen")
	}
	return nil
}

func (o *options) verifyFile(v *auditlog.Verifier, name string, at map[uint64]string) error {
	in := o.Stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // The operator names it.
		if err != nil {
			return usageError{err}
		}
		defer f.Close() //nolint:errcheck // Only read.
		in = f
	}
	if err := v.Read(in, at); err != nil {
		return broken(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

// broken is a log that is not what was written.
func broken(err error) error {
	return ui.WithHint(fmt.Errorf("%w: %w", client.ErrRefused, err), "keep all exports, and find out who altered this one, or the coordinator's store")
}

func releasesOf(w *workspace) (*auditlog.Releases, error) {
	list, err := w.Releases()
	if err != nil {
		return nil, err
	}
	out := &auditlog.Releases{Known: map[fleet.ReleaseID][]fleet.Digest{}}
	for _, r := range list {
		digests := []fleet.Digest{}
		for i := range r.Generations {
			digests = append(digests, r.Generations[i].Digest)
		}
		out.Known[r.ID] = digests
		if r.State == repo.ReleaseCommitted {
			out.Committed = append(out.Committed, r.ID)
		}
	}
	return out, nil
}

func (res *auditResult) show(p *ui.Printer) {
	p.Printf("Records %d to %d are whole; the last is %d:%s\n", res.First, res.Last, res.Last, res.Hash)
	if res.Heads > 0 {
		p.Printf("%s found on the chain.\n", plural(res.Heads, "known record"))
	}
	for _, f := range res.Findings {
		p.Printf("%s\n", p.Paint(ui.ToneBad, "ALARM: "+plainText(f)))
	}
	for _, id := range res.Missing {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, "warning: release "+string(id)+" of this repository is not in the log: the coordinator lost its store since, or it is another's log"))
	}
}
