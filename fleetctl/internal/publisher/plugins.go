package publisher

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// external pins the source of a driver plugin.
func (b *builder) external(e inventory.Source) (fleet.Source, error) {
	src := fleet.Source{Driver: e.Driver, External: &fleet.ExternalSource{}}
	if e.Config != "" {
		src.External.Config = json.RawMessage(e.Config)
	}
	if e.Files == "" {
		return src, nil
	}
	key := "files:" + e.Files
	files, ok := b.bundles[key]
	if !ok {
		var err error
		if files, err = bundle.PackFiles(e.Files, io.Discard); err != nil {
			return src, ui.WithHint(err, "source.files is a directory of files, directories and relative links")
		}
		b.bundles[key] = files
		b.pl.blobs[files.Digest] = filesBlob(e.Files, files)
	}
	src.External.Files = &files
	return src, nil
}

func filesBlob(dir string, src fleet.BundleSource) blob {
	return blob{ref: fleet.BlobRef(src), name: dir, open: func() (source, error) { return openPacked(dir, src, bundle.PackFiles) }}
}

// pinPlugins adds plugins to a generation, each executable hashed once.
func (b *builder) pinPlugins(plugins []inventory.Plugin, gen *fleet.Generation) error {
	for _, p := range plugins {
		pinned := fleet.Plugin{Name: p.Name, Kind: p.Kind}
		for _, system := range slices.Sorted(maps.Keys(p.Files)) {
			ref, err := b.executable(p.Files[system])
			if err != nil {
				return fmt.Errorf("plugin %s for %s: %w", p.Name, system, err)
			}
			pinned.Executables = append(pinned.Executables, fleet.PluginExecutable{System: system, Digest: ref.Digest, Size: ref.Size})
		}
		gen.Plugins = append(gen.Plugins, pinned)
	}
	if len(plugins) > 0 {
		gen.Critical = append(gen.Critical, fleet.CriticalPlugins)
	}
	return nil
}

func (b *builder) executable(file string) (fleet.BlobRef, error) {
	if ref, ok := b.executables[file]; ok {
		return ref, nil
	}
	ref, err := hashFile(file)
	if err != nil {
		return ref, ui.WithHint(err, fmt.Sprintf("plugins.NAME.file in fleet.yaml names the plugin's program, at most %s; build it first", ui.Size(fleet.MaxPluginBytes)))
	}
	b.executables[file] = ref
	b.pl.blobs[ref.Digest] = executableBlob(file, ref)
	return ref, nil
}

// hashFile reads a regular file within the bound of executables.
func hashFile(file string) (ref fleet.BlobRef, err error) {
	f, err := os.Open(file)
	if err != nil {
		return ref, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return ref, err
	case !fi.Mode().IsRegular():
		return ref, fmt.Errorf("%s is no regular file", file)
	case fi.Size() == 0:
		return ref, fmt.Errorf("%s is empty", file)
	case fi.Size() > fleet.MaxPluginBytes:
		return ref, fmt.Errorf("%s has %s", file, ui.Size(uint64(fi.Size()))) //nolint:gosec // Not negative.
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, fleet.MaxPluginBytes+1))
	if err == nil && n != fi.Size() {
		err = fmt.Errorf("%s: %w", file, bundle.ErrChanged)
	}
	return fleet.BlobRef{Digest: fleet.DigestFromSum([sha256.Size]byte(sum.Sum(nil))), Size: uint64(n)}, err //nolint:gosec // Not negative.
}

func executableBlob(file string, ref fleet.BlobRef) blob {
	return blob{ref: ref, name: file, open: func() (source, error) {
		// Uploads are compared with ref by whoever takes them; this says it better.
		if got, err := hashFile(file); err != nil || got != ref {
			return nil, errors.Join(ui.WithHint(fmt.Errorf("%s changed while it was published", file), "leave it alone and publish again"), err)
		}
		return os.Open(file)
	}}
}

// oldPlugins has the blobs of plugins that were published before taken from
// where the fleet file has them now, should the coordinator have lost them.
func (b *builder) oldPlugins(target Target, gen fleet.Generation) {
	gone := func(what string, ref fleet.BlobRef) error {
		return ui.WithHint(fmt.Errorf("%s %s: %w: the coordinator does not have it, and it is another one here now", what, ref.Digest.Short(), ErrSourceGone),
			"publish without --refresh")
	}
	if e := gen.Source.External; e != nil && e.Files != nil {
		ref := fleet.BlobRef(*e.Files)
		b.pl.blobs[ref.Digest] = blob{ref: ref, name: "files of " + gen.Source.Driver, open: func() (source, error) {
			dir := target.Source.Files
			if dir == "" {
				return nil, gone("files", ref)
			}
			if src, err := bundle.PackFiles(dir, io.Discard); err != nil || src != *e.Files {
				return nil, errors.Join(gone("files", ref), err)
			}
			return filesBlob(dir, *e.Files).open()
		}}
	}
	for _, p := range gen.Plugins {
		for _, x := range p.Executables {
			ref := fleet.BlobRef{Digest: x.Digest, Size: x.Size}
			b.pl.blobs[ref.Digest] = blob{ref: ref, name: "plugin " + string(p.Name), open: func() (source, error) {
				for _, q := range target.Plugins {
					if file := q.Files[x.System]; q.Name == p.Name && file != "" {
						if got, err := hashFile(file); err == nil && got == ref {
							return os.Open(file)
						}
					}
				}
				return nil, gone("plugin "+string(p.Name), ref)
			}}
		}
	}
}
