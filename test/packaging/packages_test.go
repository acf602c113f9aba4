package packaging

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestPackages builds the packages and looks inside.
func TestPackages(t *testing.T) {
	look(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "packages", "PACKAGES="+dir, "VERSION=v1.2.3-4-gabcdef0") //nolint:gosec // Of this test.
	cmd.Dir = Root
	// Not the flags of a make that runs this test.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=") })
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make packages: %v\n%s", err, out)
	}
	rpmArch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	if rpmArch == "" {
		rpmArch = runtime.GOARCH
	}
	for _, name := range []string{"fleet-agent", "fleet-coordinator", "fleetctl"} {
		program, err := os.ReadFile(filepath.Join(dir, "linux_"+runtime.GOARCH, name)) //nolint:gosec // Of this test.
		if err != nil {
			t.Fatal(err)
		}
		deb, err := readDeb(filepath.Join(dir, name+"_1.2.3+4.gabcdef0_"+runtime.GOARCH+".deb"))
		if err != nil {
			t.Errorf("%s: deb: %v", name, err)
			continue
		}
		rpm, err := readRPM(filepath.Join(dir, name+"-1.2.3+4.gabcdef0-1."+rpmArch+".rpm"))
		if err != nil {
			t.Errorf("%s: rpm: %v", name, err)
			continue
		}
		checkPackage(t, "deb", deb, name, runtime.GOARCH, program)
		checkPackage(t, "rpm", rpm, name, rpmArch, program)
		for file, d := range deb.files {
			if r, there := rpm.files[file]; there && d.mode.IsRegular() && d.sum != r.sum {
				t.Errorf("%s: %s is another in the rpm", name, file)
			}
		}
		for _, unitName := range unitsOf(name) {
			unit := deb.files["/usr/lib/systemd/system/"+unitName+".service"]
			text, err := os.ReadFile(filepath.Join(Root, "packaging/systemd", unitName+".service")) //nolint:gosec // Of the repository.
			if err != nil {
				t.Fatal(err)
			}
			want, err := parseUnit(strings.ReplaceAll(string(text), "/usr/local/bin/", "/usr/bin/"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseUnit(string(unit.data))
			if err != nil || !maps.EqualFunc(got, want, slices.Equal) || strings.Contains(string(unit.data), "/usr/local") || strings.Contains(string(unit.data), "# fleet: ") {
				t.Errorf("%s: the unit is not packaging/systemd's with the program's place: %v\n%s", unitName, err, unit.data)
			}
		}
	}
}

// unitsOf are the units that a program's package brings.
func unitsOf(program string) []string {
	return map[string][]string{"fleet-agent": {"fleet-agent", "fleet-dead-man", "fleet-secrets"}, "fleet-coordinator": {"fleet-coordinator"}}[program]
}

func checkPackage(t *testing.T, kind string, p pkg, name, arch string, program []byte) {
	t.Helper()
	if p.name != name || p.version != "1.2.3+4.gabcdef0" || p.arch != arch {
		t.Errorf("%s: %s %s %s, of %s", kind, p.name, p.version, p.arch, name)
	}
	want := map[string]os.FileMode{"/usr/bin/" + name: 0o755, "/usr/share/doc/" + name + "/copyright": 0o644}
	service := name != "fleetctl"
	if service {
		want["/etc/fleet"] = os.ModeDir | 0o700
	}
	for _, unit := range unitsOf(name) {
		want["/usr/lib/systemd/system/"+unit+".service"] = 0o644
	}
	if name == "fleet-agent" {
		// The mode of a link says nothing.
		for _, link := range []string{"multi-user.target.wants/fleet-dead-man.service", "sysinit.target.wants/fleet-secrets.service"} {
			link = "/usr/lib/systemd/system/" + link
			want[link] = p.files[link].mode
		}
	}
	for file, mode := range want {
		if got, ok := p.files[file]; !ok || got.mode != mode {
			t.Errorf("%s: %s: %s has mode %s, want %s (there: %t)", kind, name, file, got.mode, mode, ok)
		}
	}
	for file, f := range p.files {
		if _, ok := want[file]; !ok && !f.mode.IsDir() {
			t.Errorf("%s: %s brings %s", kind, name, file)
		}
	}
	if sum := sha256.Sum256(program); p.files["/usr/bin/"+name].sum != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: %s: the program is not the one that was built", kind, name)
	}
	// /etc is the administrator's: nothing there is the package's to replace.
	if len(p.conffiles) > 0 {
		t.Errorf("%s: %s: configuration files %q", kind, name, p.conffiles)
	}
	if wantScripts := map[bool]int{true: 3}[service]; len(p.scripts) != wantScripts {
		t.Errorf("%s: %s has %d scripts, want %d", kind, name, len(p.scripts), wantScripts)
	}
	for script, text := range p.scripts {
		if strings.Contains(text, "@") || regexp.MustCompile(`systemctl.* (enable|start|restart)|rm -|unmask`).MatchString(text) {
			t.Errorf("%s: %s: %s enables, starts or removes something, or is half made:\n%s", kind, name, script, text)
		}
		if script == "postinst" != strings.Contains(text, "try-restart "+name+".service") {
			t.Errorf("%s: %s: %s:\n%s", kind, name, script, text)
		}
	}
}
