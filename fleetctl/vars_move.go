package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// validationFile is where an export has a generator's validation hash, as clan has.
const validationFile = ".validation-hash"

// maxExported bounds the files of an export that is imported.
const maxExported = 1 << 14

func newVarsExportCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "export DIR",
		Short: "Write all values in clear into a new directory",
		Long: `Write all values in clear into DIR, which must not exist: PLACE/GENERATOR/FILE, and
.validation-hash beside the files. Only you can read it. Have it in memory or on an
encrypted disk, and remove it afterwards. A value that none of your keys opens stops it,
and leaves nothing.`,
		Example: "  fleetctl vars export /dev/shm/values",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runVarsExport(o, args[0]) },
	}
}

// varsExportResult is the JSON form of vars export.
type varsExportResult struct {
	Directory string `json:"directory"`
	Values    int    `json:"values"`
}

func runVarsExport(o *options, dir string) (err error) {
	v, err := o.declaredHere()
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	ids, _, err := o.identities()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return ui.WithHint(fmt.Errorf("exporting: %w", err), "name a directory that is not there yet, in one that is")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	result := varsExportResult{Directory: dir}
	var errs []error
	for _, e := range t.Entries() {
		if e.ID == (vars.ID{}) || !e.Secret && !e.Public {
			continue
		}
		value, err := readEntry(t, e, ids)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = exportFile(dir, e.ID.String(), value)
		clear(value)
		if hash := t.ValidationHash(e.ID.Placement, e.ID.Generator); err == nil && hash != "" {
			err = exportFile(dir, path.Join(e.ID.RelDir(), validationFile), []byte(hash))
		}
		if err != nil {
			return fmt.Errorf("exporting: %w", err)
		}
		result.Values++
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	p.Printf("exported %s to %s\n", counted(result.Values, "value"), dir)
	return nil
}

func readEntry(t *vars.Tree, e vars.Entry, ids []sops.Identity) ([]byte, error) {
	if e.Secret {
		return t.Read(e.Path, ids) //nolint:wrapcheck // It names the entry.
	}
	return t.Value(e.Path) //nolint:wrapcheck // As above.
}

func exportFile(dir, name string, value []byte) error {
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	return os.WriteFile(file, value, 0o600) //nolint:wrapcheck // As above.
}

func newVarsImportCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Set values from a directory that vars export wrote, here or in clan",
		Long: `Set all values of DIR, which "fleetctl vars export" or "clan vars export" wrote: one
commit, or nothing. A value that is declared is kept as it is declared, one that is not
as it is kept already; what is neither is refused by name. Values that are the same are
left alone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsImport(cmd.Context(), o, opts, args[0])
		},
	}
	opts.addTo(cmd)
	return cmd
}

// varsImportResult is the JSON form of vars import.
type varsImportResult struct {
	Values int `json:"values"`
	written
}

func runVarsImport(ctx context.Context, o *options, opts *varsOptions, dir string) error {
	v, c, err := o.changeValues(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return ui.WithHint(fmt.Errorf("importing: %w", err), "name a directory that vars export wrote")
	}
	defer root.Close() //nolint:errcheck // Nothing is written.
	result := varsImportResult{}
	var errs []error
	seen := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if seen++; err == nil && seen > maxExported {
			err = fmt.Errorf("more than %d files", maxExported)
		}
		if err != nil || d.IsDir() {
			return err
		}
		if err := v.importFile(c, root, name, d); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		} else if path.Base(name) != validationFile {
			result.Values++
		}
		return nil
	})
	if err == nil && result.Values == 0 && len(errs) == 0 {
		err = errors.New("there are no values in it")
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return ui.WithHint(fmt.Errorf("importing from %s: %w", dir, err), "nothing was changed")
	}
	if result.written, err = c.keep(ctx, "vars: import "+counted(result.Values, "value")); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	p.Printf("imported %s\n", counted(result.Values, "value"))
	result.say(o, opts)
	return nil
}

// importFile puts one file of an export into a change.
func (v *values) importFile(c *valueChange, root *os.Root, name string, d fs.DirEntry) error {
	if !d.Type().IsRegular() {
		return errors.New("it is no file")
	}
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	defer f.Close() //nolint:errcheck // Nothing is written.
	value, err := io.ReadAll(io.LimitReader(f, sops.MaxValue+1))
	defer clear(value)
	if err == nil && len(value) > sops.MaxValue {
		err = fmt.Errorf("it is too large: at most %d bytes can be kept", sops.MaxValue)
	}
	if err != nil {
		return err //nolint:wrapcheck // The caller names the file.
	}
	if path.Base(name) == validationFile {
		id, err := vars.ParseID(path.Join("vars", path.Dir(name), "any"))
		if err != nil {
			return err //nolint:wrapcheck // As above.
		}
		return c.SetValidationHash(id.Placement, id.Generator, strings.TrimSpace(string(value))) //nolint:wrapcheck // As above.
	}
	id, err := vars.ParseID(path.Join("vars", name))
	if err != nil {
		return err //nolint:wrapcheck // As above.
	}
	g := v.set.Making(id.Path())
	e, err := c.Tree().Entry(id.Path())
	switch {
	case g != nil:
		if f, _ := g.File(id.File); !f.Secret {
			return c.PutPublic(id, value) //nolint:wrapcheck // As above.
		}
		return c.PutSecret(id.Path(), value, v.set.Access(g, id.File)) //nolint:wrapcheck // As above.
	case err == nil && e.Secret:
		return c.PutSecret(id.Path(), value, vars.Access{}) //nolint:wrapcheck // As above.
	case err == nil && e.Public:
		return c.PutPublic(id, value) //nolint:wrapcheck // As above.
	}
	return errors.New("it is declared nowhere, and not there yet: whether it is secret is not known")
}

func newVarsMigrateCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move values of older layouts to vars/",
		Long: `Move values of two older layouts to vars/: sops/machines/MACHINE/{secrets,facts}/
GENERATOR.FILE and sops/shared/GENERATOR/FILE. Documents stay as they are, byte for
byte, so that no private key opens anything. Who reads them is linked: as before, or
those whose keys they name. One that can't be moved is named, and then nothing is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVarsMigrate(cmd.Context(), o, opts) },
	}
	opts.addTo(cmd)
	return cmd
}

// movedView is a value that moved, in JSON.
type movedView struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// varsMigrateResult is the JSON form of vars migrate.
type varsMigrateResult struct {
	Moved []movedView `json:"moved"`
	written
}

func runVarsMigrate(ctx context.Context, o *options, opts *varsOptions) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	c, err := v.change(ctx, o, opts, nil, nil)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	moved, err := c.Migrate(v.set.Names)
	if err != nil {
		return ui.WithHint(fmt.Errorf("%w; nothing was moved", err), "move or delete what is named, or declare its generator")
	}
	result := varsMigrateResult{Moved: []movedView{}}
	for _, l := range moved {
		result.Moved = append(result.Moved, movedView{l.Path, l.ID.Path()})
	}
	if result.written, err = c.keep(ctx, "vars: migrate from older layouts"); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	for _, m := range result.Moved {
		p.Printf("moved %s to %s\n", m.From, m.To)
	}
	if len(moved) == 0 {
		p.Printf("nothing is in an older layout\n")
	}
	result.say(o, opts)
	return nil
}
