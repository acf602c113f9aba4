package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// target is a fuzz target.
type target struct {
	// dir is that of the package, and path the same from the repository's root.
	dir, path, function string
}

// name is what the target is called in the table.
func (t target) name() string { return t.path + "." + t.function }

func names(ts []target) []string {
	var list []string
	for _, t := range ts {
		list = append(list, t.name())
	}
	return list
}

// find lists the fuzz targets of the module at root and of its examples, by name.
func find(ctx context.Context, root string) ([]target, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("finding the fuzz targets: %w", err)
	}
	examples, err := filepath.Glob(filepath.Join(root, "docs/examples/*/go.mod"))
	if err != nil {
		return nil, fmt.Errorf("finding the fuzz targets: %w", err)
	}
	dirs := []string{root}
	for _, mod := range examples {
		dirs = append(dirs, filepath.Dir(mod))
	}
	var all []target
	for _, dir := range dirs {
		ts, err := inModule(ctx, root, dir)
		if err != nil {
			return nil, fmt.Errorf("finding the fuzz targets of %s: %w", dir, err)
		}
		all = append(all, ts...)
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.name(), b.name()) })
	return all, nil
}

// inModule lists those of one module. The go command says which files count.
func inModule(ctx context.Context, root, dir string) ([]target, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=Dir,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(failed.Stderr))
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // It says which command.
	}
	var all []target
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir                       string
			TestGoFiles, XTestGoFiles []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading what go list says: %w", err)
		}
		path, err := filepath.Rel(root, p.Dir)
		if err != nil {
			return nil, err //nolint:wrapcheck // It names both.
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			functions, err := inFile(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, f := range functions {
				all = append(all, target{dir: p.Dir, path: filepath.ToSlash(path), function: f})
			}
		}
	}
}

// inFile lists the functions FuzzXxx(*testing.F) of a file.
func inFile(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the file.
	}
	var list []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") || len(fn.Type.Params.List) != 1 {
			continue
		}
		if star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr); ok {
			if of, ok := star.X.(*ast.SelectorExpr); ok && of.Sel.Name == "F" {
				list = append(list, fn.Name.Name)
			}
		}
	}
	return list, nil
}
