package crashpoint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// root is the module's root.
const root = "../.."

// sources parses all Go files of the programs, tests left out.
func sources(t *testing.T, each func(path string, f *ast.File)) {
	t.Helper()
	for _, top := range []string{"agent", "coordinator", "fleetctl", "pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() == "testdata" || path == filepath.Join(root, "pkg", "crashpoint") {
				if err == nil {
					err = fs.SkipDir
				}
				return err
			}
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err == nil {
				each(path, f)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// constants are the names of the constants of type Point, in their order.
func constants(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "points.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{""}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v, ok := s.(*ast.ValueSpec)
			if ok && v.Names[0].Name != "_" {
				names = append(names, v.Names[0].Name)
			}
		}
	}
	return names
}

func TestEveryPointIsUsed(t *testing.T) {
	names := constants(t)
	if len(names) != len(crashpoint.Points()) {
		t.Fatalf("%d constants, %d points", len(names)-1, len(crashpoint.Points())-1)
	}
	used := map[string]bool{}
	sources(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := selector(call.Fun)
			if !ok || !strings.HasPrefix(fun, "Hit") {
				return true
			}
			point, ok := selector(call.Args[0])
			if !ok || !slices.Contains(names, point) {
				t.Errorf("%s: %s is called with something else than a point of the registry", path, fun)
			}
			used[point] = true
			return true
		})
	})
	for _, name := range names[1:] {
		if !used[name] {
			t.Errorf("%s is in the registry, and nothing hits it", name)
		}
	}
}

// selector is x of crashpoint.x.
func selector(e ast.Expr) (string, bool) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	p, ok := s.X.(*ast.Ident)
	return s.Sel.Name, ok && p.Name == "crashpoint"
}

func TestRegistry(t *testing.T) {
	sides := []crashpoint.Side{
		crashpoint.Any, crashpoint.Agent, crashpoint.Runner, crashpoint.Switch, crashpoint.Coordinator, crashpoint.Blob, crashpoint.Publish,
	}
	name := regexp.MustCompile(`^[a-z]+\.[a-z-]+$`)
	seen := map[string]bool{}
	for p, info := range crashpoint.Points() {
		if p == 0 {
			continue
		}
		switch {
		case !name.MatchString(info.Name):
			t.Errorf("point %d: name %q: want two words with a dot between", p, info.Name)
		case seen[info.Name]:
			t.Errorf("%s: there are two", info.Name)
		case !slices.Contains(sides, info.Side):
			t.Errorf("%s: side %q", info.Name, info.Side)
		case !strings.HasSuffix(info.What, "."):
			t.Errorf("%s: %q is no sentence", info.Name, info.What)
		}
		seen[info.Name] = true
	}
}

// traces are what of the registry is found in a program.
func traces(t *testing.T, program string) (found []string) {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range crashpoint.Points()[1:] {
		if strings.Contains(string(data), info.What) {
			found = append(found, info.What)
		}
	}
	if strings.Contains(string(data), "FLEET_CRASHPOINT") {
		found = append(found, "FLEET_CRASHPOINT")
	}
	return found
}
