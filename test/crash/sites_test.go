//go:build linux

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// effects make something durable, or take it away. A function that calls one has
// a crash point, or is in pointless.
var effects = map[string][]string{
	"os":         {"Rename", "Remove", "RemoveAll", "Symlink", "Link", "WriteFile", "OpenFile", "Create", "CreateTemp", "Mkdir", "MkdirTemp"},
	"atomicfile": {"Write", "WriteFile", "Symlink", "SymlinkLater"},
	"atomicdir":  {"Publish"},
}

// pointless are functions with an effect that needs no point of its own, and
// why.
var pointless = map[string]string{
	"execute.(*Executor).await":         "the null device",
	"execute.writeAction":               "nobody reads it after a crash but the runner that is started next; the points around the runner's start are before and after it",
	"fleetctl.runVarsExport":            "a copy in clear for its person, who removes it",
	"fleetctl.exportFile":               "as runVarsExport",
	"sandbox.(*Sandbox).lay":            inMemory,
	"sandbox.memoryIn":                  inMemory,
	"sandbox.hold":                      inMemory,
	"sandbox.ramDisk":                   inMemory,
	"sandbox.work.remove":               inMemory,
	"execute.(*Units).clear":            "sockets that nobody answers any more",
	"execute.begin":                     "only where a disk refuses to keep that a run began; who dies before leaves a run that was cut short, as the points of its file do",
	"execute.openLog":                   "what a program says, for people; the points around the runner's start are before and after it",
	"execute.takeLock":                  "a file that is only locked",
	"journal.takeLock":                  "a file that is only locked",
	"bolt.open":                         "the store's file, empty; the point after it was filled comes next",
	"bolt.(*Store).unmake":              "makes a file empty that holds nothing yet",
	"fleetctl.runAuditExport":           "a copy for people; one that was cut short is made again",
	"bootstrap.build":                   "the directory in which a fleet is staged, which the next run begins anew",
	"agent.(*waits).forget":             "what nobody waits for any more; a later decision forgets it",
	"quarantine.(*Ledger).Enter":        "says that something was begun, which is so whether or not the agent dies just then",
	"quarantine.(*Ledger).Forget":       "what counts for one boot of the host only; a person who asks for it asks again",
	"console.writeTo":                   "a terminal, which keeps nothing",
	"control.(*PersonServer).Serve":     "a directory with a socket that nobody answers any more",
	"control.listenAt":                  "a socket that nobody answers any more",
	"publisher.unnamed":                 "a temporary file without a name",
	"repo.(*Repository).DropKey":        "a key that nobody knows yet, and whose making has failed",
	"repo.(*Repository).removeAll":      "what counts for nothing, or makes the command that is run again finish",
	"journal.keepBeside":                "another name for a damaged journal; the points of journal.Recover are around it",
	"sync.Blobs.Check":                  "bytes that turned out wrong",
	"plugin.Open":                       "what an agent that was killed left of its plugins",
	"plugin.(*Host).Close":              "what only this run of the agent needs",
	"plugin.start":                      "what only one plugin's process needs",
	"plugin.(*process).run":             "what only one plugin's process needs",
	"plugin.openStore":                  "what an agent that was killed left half-written",
	"plugin.store.open":                 "bytes that turned out wrong; fetched again",
	"plugin.store.prune":                "executables that no generation names",
	"atomicdir.exchangeByTwo":           "only where the system can't swap in one step",
	"blob.(*upload).discard":            "bytes that were never acknowledged",
	"blob.(*Store).sweep":               "uploads that nobody touched for a week",
	"blob.(*Store).prepare":             "a file that only shows that the directory can be written",
	"blob.realFiles":                    "only names what others call, between points",
	"agent.(*worker).buildPinned":       "a temporary file for a program to read",
	"bootstrap.resume":                  "what an interrupted init left; its own points are met before",
	"bootstrap.removeMarker":            "between two points of its caller",
	"sync.(*Client).FetchBlob":          "bytes that turned out wrong",
	"nixdriver.(*base).build":           "a root of Nix's garbage collector: the lab cuts power there",
	"coordinator.listenBackups":         "a socket that nobody answers any more",
	"coordinator.closeSocket":           "a socket that nobody answers any more; the next start replaces it",
	"nixdriver.removeStore":             "trees that a repair needed, or that a crash left; the next repair removes them first",
	"coordinator.removeSnapshots":       "copies of the store that nobody waits for any more",
	"coordinator.writeBackup":           "a copy of the store that is removed at the next start",
	"coordinator.checkEmpty":            "what an interrupted restore left",
	"identity.saveKey":                  "the other way to keep a key, which the request that is written next ends",
	"repo.(*Repository).RemoveDraft":    "the point after the root is written comes before it",
	"repo.(*Repository).ForgetOperator": "undoes the write just before it: what a kill leaves, the next run goes on with",
	"agent.(*worker).openSwitch":        "an empty directory; nothing begins without what is in it",
	"deadman.Open":                      "an empty directory; nothing begins without what is in it",
	"deadman.(*process).run":            "a file that is only locked, and what a process before said",
	"deadman.(*process).wait":           "what counts only while the process lives that wrote it",
	"deadman.(*Children).Start":         "what a switch says, for people",
	"deadman.(*Switch).Release":         "what only a process that waits for nothing looks at",
	"deadman.(*Switch).tidy":            "verdicts on what is over",
	"permission.read":                   "opens what macOS guards, and reads nothing",
	"agent.askPermissions":              "what only one look of a person needs",
	"launchd.(*Jobs).closed":            "a directory of this boot, which the next agent finds or makes",
	"launchd.anew":                      "what launchd reads once, and the next agent takes away",
	"launchd.(*Jobs).drop":              "what launchd read, of a job that is over",
	"deadman.openWake":                  "a pipe, which holds nothing when nobody has it open",
	"deadman.wake":                      "a pipe, which holds nothing when nobody has it open",
	"nixdriver.removeRoot":              "a root of Nix's garbage collector that nobody needs",
	"service.remove":                    "what is uninstalled; a second uninstall goes on",
	"service.Host.forgetShells":         "an empty directory, and what no shell needs; a second uninstall goes on",
	"secrets.Places.Restore":            "links in /run, which each start of the agent makes again",
	"secrets.Places.Leave":              "what a person gave up; the next purge goes on",
	"secrets.ramDisk.mount":             onMacs,
	"secrets.removeEmpty":               onMacs,
	"agent.purge":                       "what a person gave up; the next purge goes on",
	"vars.takeLock":                     "a file that is only locked",
	"vars.removeIfThere":                "between two points of its callers",
	"vars.makeState":                    "an empty directory, and what git leaves out of it",
}

// helpers are packages of tests.
var helpers = regexp.MustCompile(`/(agenttest|disktest|plugintest|drivertest|storetest|servicetest|launchdtest|fakeagent|fakecoordinator|systemdtest|nixtest|testdata|secretsbench)/`)

const onMacs = "of macOS; what a run that was killed left the next one takes away, as the test of the package shows"

const inMemory = "in memory only; what a run that was killed left the next one removes, as the test of the package shows"

// unmet are the functions that call into atomicfile and atomicdir and that no
// stage meets yet, and why.
var unmet = map[string]string{
	"nixdriver.(*OutPath).Build": needsNix,
	"nixdriver.(*base).build":    needsNix,
	"nixdriver.(*base).keep":     needsNix,
	"bolt.(*Store).anew":         "after a write that failed only",
	"deadman.(*process).count":   "after a boot only; one that is cut short is not counted",
	"agent.(*worker).askReboot":  "reboots the host: agent/boot_test.go and the lab do",
	"agent.(*waits).change":      "needs somebody at a console: agent/console_test.go has agents that start anew before and after it",
	"vars.commit":                ownKills,
	"vars.(*Tree).carryOut":      ownKills,
	"service.Host.placeProgram":  needsManager,
	"service.Host.write":         needsManager,
	"agent.keepJoin":             needsManager,
	"secrets.KeepKey":            "only with --run-secrets closure, on hosts with sops-nix; one that was cut short is made at the next start",
	"fleetctl.(*keyHolder).take": "a certificate, whose record is there before; one that was cut short is asked for again",
}

const (
	needsNix     = "needs Nix: the lab kills there (test/lab/points.go)"
	ownKills     = "TestKilledAtEachPoint of pkg/vars kills a writer at each point"
	needsManager = "installing needs a service manager: the lab kills there (test/lab/services.go)"
)

// function is a function of the programs, as crashpoint.HitCaller names it.
type function struct {
	name, file string
	calls      map[string]bool // "package.Function"
}

func functions(t *testing.T) (list []function) {
	t.Helper()
	for _, top := range []string{"agent", "coordinator", "fleetctl", "pkg"} {
		err := filepath.WalkDir(filepath.Join("../..", top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || helpers.MatchString(path) {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
					list = append(list, function{nameOf(f.Name.Name, fn), path, callsOf(fn.Body)})
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// nameOf is the name at runtime, without the directories of the package.
func nameOf(pkg string, fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return pkg + "." + fn.Name.Name
	}
	switch recv := fn.Recv.List[0].Type.(type) {
	case *ast.StarExpr:
		if id, ok := recv.X.(*ast.Ident); ok {
			return pkg + ".(*" + id.Name + ")." + fn.Name.Name
		}
	case *ast.Ident:
		return pkg + "." + recv.Name + "." + fn.Name.Name
	}
	return pkg + ".?." + fn.Name.Name
}

func callsOf(body ast.Node) map[string]bool {
	calls := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if p, ok := s.X.(*ast.Ident); ok {
			calls[p.Name+"."+s.Sel.Name] = true
		}
		return true
	})
	return calls
}

// TestEveryEffectHasAPoint: whoever adds a step that makes something durable adds
// its crash points too.
func TestEveryEffectHasAPoint(t *testing.T) {
	seen := map[string]bool{}
	for _, fn := range functions(t) {
		for pkg, names := range effects {
			for _, name := range names {
				if !fn.calls[pkg+"."+name] || strings.Contains(fn.file, "/pkg/crashpoint/") {
					continue
				}
				seen[fn.name] = true
				covered := pkg != "os" && !strings.Contains(fn.file, "/pkg/atomic") // they have points themselves
				for c := range fn.calls {
					covered = covered || strings.HasPrefix(c, "crashpoint.Hit")
				}
				if _, ok := pointless[fn.name]; !covered && !ok {
					t.Errorf("%s (%s) calls %s.%s without a crash point: add one to pkg/crashpoint before and after it, or say in pointless why there is none",
						fn.name, fn.file, pkg, name)
				}
			}
		}
	}
	for name := range pointless {
		if !seen[name] {
			t.Errorf("pointless has %s, which has no effect any more", name)
		}
	}
}

// callers are the functions whose calls into atomicfile and atomicdir have names
// in the log of hits.
func callers(t *testing.T) (names []string) {
	t.Helper()
	for _, fn := range functions(t) {
		for _, pkg := range []string{"atomicfile", "atomicdir"} {
			for _, name := range effects[pkg] {
				if fn.calls[pkg+"."+name] && !slices.Contains(names, fn.name) && !strings.Contains(fn.file, "/pkg/atomic") {
					names = append(names, fn.name)
				}
			}
		}
	}
	return names
}
