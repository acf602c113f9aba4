// Package deps holds the tests of what may depend on what.
package deps

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/cameronraysmith/fleet"

// denied are import path prefixes that the agent must not link, with the
// reason. The agent runs as root on every host, for ever: what it links is
// attack surface and resident memory, times the number of hosts.
var denied = []struct{ prefix, reason string }{
	{"github.com/getsops/sops", "secrets reach a host as age files; sops brings 98 modules and every cloud's key service"},
	{"go.mozilla.org/sops", "the older name of sops"},
	{"go.etcd.io/etcd", "stores belong to the coordinator"},
	{"go.etcd.io/bbolt", "the agent's state is its journal, which anyone can read without a lock"},
	{"net/http/pprof", "registers handlers on the default mux by being imported"},
	{"expvar", "registers handlers on the default mux by being imported"},
	{"golang.org/x/net/trace", "a web page within grpc: build with -tags grpcnotrace"},
	{"github.com/hashicorp/go-plugin", "plugins link it; the agent's half of the protocol is agent/internal/plugin: the library's links net/rpc"},
	{"net/rpc", "links html/template"},
	{"html/template", "no pages in the agent; reflection over templates also stops the linker from dropping unused methods"},
	{"cloud.google.com/go", "a cloud SDK"},
	{"google.golang.org/api", "a cloud SDK"},
	{"github.com/aws/", "a cloud SDK"},
	{"github.com/Azure/", "a cloud SDK"},
	{"github.com/hashicorp/vault", "a cloud SDK"},
	{"k8s.io/", "a cluster's SDK"},
	{"github.com/docker/", "a container engine's SDK"},
	{"github.com/prometheus/", "metrics are the coordinator's"},
	{"go.opentelemetry.io/", "tracing is the coordinator's"},
	{"charm.land/", "terminal interfaces are fleetctl's"},
	{"github.com/charmbracelet/", "terminal interfaces are fleetctl's"},
	{"github.com/goccy/go-yaml", "hosts read signed JSON only; fleet.yaml stays with the operator"},
	{"golang.org/x/crypto/ssh/agent", "hosts verify signatures; keys that sign are with operators"},
	{module + "/pkg/inventory", "hosts know only what is signed for them"},
	{module + "/pkg/generator", "what hosts are given is generated where the operator is"},
	{module + "/pkg/sshca", "certificates are signed where the operator is"},
	{module + "/pkg/vars", "trees of secrets are in the operators' repository"},
	{module + "/pkg/sops/plain", "hosts get documents of one value; the other files of sops are the operators'"},
	{module + "/pkg/sops/ageplugin", "an agent starts no program that asks people for a touch"},
	{"testing", "test code"},
	{"pgregory.net/rapid", "test code"},
	{"go.uber.org/goleak", "test code"},
	{"github.com/google/go-cmp", "test code"},
}

// list runs go list in the module's root.
func list(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, stderr.Bytes())
	}
	return out
}

func TestAgentLinksNothingDenied(t *testing.T) {
	for _, goos := range []string{"linux", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			env := []string{"GOOS=" + goos, "CGO_ENABLED=0"}
			out := list(t, env, "-tags", "grpcnotrace,nethttpomithttp2", "-deps", "./cmd/fleet-agent")
			deps := strings.Fields(string(out))
			if len(deps) < 100 {
				t.Fatalf("only %d packages listed: the list cannot be right", len(deps))
			}
			for _, dep := range deps {
				if prefix, reason := denial(dep); prefix != "" {
					t.Errorf("cmd/fleet-agent links %s: %s; find out why with: go mod why -m, or go list -deps ./agent/...", dep, reason)
				}
			}
		})
	}
}

// TestAgentHasNoMethodsByName: where a program can reach reflect's methods by name or by
// number, the linker keeps all exported methods of all types, and an idle agent has a third
// more of them in memory. Everybody who links text/template does that, and cobra's templates
// do unless none is set.
func TestAgentHasNoMethodsByName(t *testing.T) {
	for pkg, want := range map[string]bool{"./cmd/fleet-agent": false, "./test/deps/testdata/byname": true} {
		build := exec.CommandContext(t.Context(), "go", "build", "-tags", "grpcnotrace,nethttpomithttp2", "-trimpath", "-ldflags=-dumpdep", //nolint:gosec // Of the two above.
			"-o", filepath.Join(t.TempDir(), "program"), pkg)
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		edges, err := build.CombinedOutput() // What the linker reaches, and from where.
		if err != nil || !bytes.Contains(edges, []byte(" -> runtime.throw\n")) {
			t.Fatalf("building %s: %v\n%.2000s", pkg, err, edges)
		}
		if got := bytes.Contains(edges, []byte(" <ReflectMethod> -> ")); got != want {
			t.Errorf("the linker keeps all methods in %s: %t; who makes it, go build -ldflags=-dumpdep marks with <ReflectMethod>", pkg, got)
		}
	}
}

// denial returns the entry of denied that covers an import path.
func denial(path string) (prefix, reason string) {
	for _, d := range denied {
		if path == d.prefix || strings.HasPrefix(path, strings.TrimSuffix(d.prefix, "/")+"/") {
			return d.prefix, d.reason
		}
	}
	return "", ""
}

func TestDenial(t *testing.T) {
	for path, want := range map[string]string{
		"testing": "testing", "testing/synctest": "testing", "testingx": "",
		"github.com/aws/sdk": "github.com/aws/", "github.com/awsome/x": "", "net/http": "", "net/http/pprof": "net/http/pprof",
	} {
		if got, _ := denial(path); got != want {
			t.Errorf("denial(%q) = %q, want %q", path, got, want)
		}
	}
}

// side is the part of the tree that a package belongs to.
func side(path string) string {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	first, rest, _ := strings.Cut(rest, "/")
	if first == "cmd" {
		first, _, _ = strings.Cut(rest, "/")
		return strings.TrimPrefix(first, "fleet-")
	}
	return first
}

// The compiler keeps others out of agent/internal and coordinator/internal;
// this keeps the sides out of each other altogether, tests included.
func TestSidesDoNotImportEachOther(t *testing.T) {
	may := map[string]string{
		"agent":       "agent pkg proto",
		"coordinator": "coordinator pkg proto",
		"fleetctl":    "fleetctl pkg proto",
		"pkg":         "pkg proto",
		"proto":       "proto",
		"test":        "agent coordinator fleetctl pkg proto test",
	}
	d := json.NewDecoder(bytes.NewReader(list(t, nil, "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")))
	seen := map[string]int{}
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from := side(p.ImportPath)
		allowed, known := may[from]
		if !known {
			t.Errorf("%s: a part of the tree that no rule knows: add it here and to .golangci.yml", p.ImportPath)
			continue
		}
		seen[from]++
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, imp := range imports {
				if to := side(imp); to != "" && !strings.Contains(" "+allowed+" ", " "+to+" ") {
					t.Errorf("%s imports %s: %s may import only: %s", p.ImportPath, imp, from, allowed)
				}
			}
		}
	}
	for part := range may {
		if seen[part] == 0 {
			t.Errorf("no package of %s was listed", part)
		}
	}
}
