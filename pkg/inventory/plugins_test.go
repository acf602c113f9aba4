package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// pluginFile is a fleet of one machine, all of whose settings are below "all".
func pluginFile(settings string) []byte {
	return []byte("fleet: f\nmachines: {box: {}}\nsettings:\n  all:\n    " + strings.ReplaceAll(settings, "\n", "\n    ") + "\n")
}

func pluginSettings(t *testing.T, settings string) (inventory.Deployment, error) {
	t.Helper()
	f, err := inventory.Parse("fleet.yaml", pluginFile(settings), "/fleet", nil)
	if err != nil {
		return inventory.Deployment{}, err
	}
	return f.Settings("box")
}

const goodPlugins = `plugins:
  files: {kind: driver, file: {linux/amd64: bin/files, darwin/arm64: /bin/files}}
  certificate: {kind: probe, file: {linux/amd64: bin/certificate}}
  unused: {kind: probe, file: {linux/amd64: bin/unused}}
source:
  driver: files
  files: site
  config: {link: /srv/site, reload: [/bin/true, "1"], deep: {b: 1, a: 1.5, no: null, yes: true}}
probes:
  tls: {kind: plugin, plugin: certificate, config: {days: 7}, timeout: 5s}
`

func TestPlugins(t *testing.T) {
	dep, err := pluginSettings(t, goodPlugins)
	if err != nil {
		t.Fatal(err)
	}
	e := dep.Source
	if !e.IsExternal() || e.Driver != "files" || e.Files != "/fleet/site" ||
		e.Config != `{"deep":{"a":1.5,"b":1,"no":null,"yes":true},"link":"/srv/site","reload":["/bin/true","1"]}` {
		t.Errorf("source: %+v", e)
	}
	if len(dep.Probes) != 1 || dep.Probes[0].Plugin != "certificate" || string(dep.Probes[0].Config) != `{"days":7}` {
		t.Errorf("probes: %+v", dep.Probes)
	}
	want := "[{certificate probe map[linux/amd64:/fleet/bin/certificate]} {files driver map[darwin/arm64:/bin/files linux/amd64:/fleet/bin/files]}]"
	if got := fmt.Sprint(dep.Plugins); got != want {
		t.Errorf("plugins: %s\nwant %s", got, want)
	}
}

func TestBadPlugins(t *testing.T) {
	for name, c := range map[string]struct{ from, to, say string }{
		"no such driver":     {"driver: files", "driver: fils", `source.driver is "fils": did you mean "files"?`},
		"no such probe":      {"plugin: certificate", "plugin: cert", `there is no plugin "cert"`},
		"driver of a probe":  {"driver: files", "driver: certificate", "is of kind probe"},
		"probe of a driver":  {"plugin: certificate", "plugin: files", "is of kind driver"},
		"kind":               {"kind: driver", "kind: hook", `kind of plugin files is "hook"`},
		"no kind":            {"kind: driver, ", "", "plugin files has no kind"},
		"no file":            {"file: {linux/amd64: bin/certificate}", "file: {}", "plugin certificate has no executable"},
		"system":             {"darwin/arm64:", "darwin:", "is no system"},
		"path":               {"/bin/files}}", "7}}", "plugin files: file"},
		"name":               {"  files: {kind", "  Files: {kind", "malformed name"},
		"built-in":           {"  unused: ", "  bundle: ", "name of a built-in driver"},
		"unknown key":        {"kind: driver, ", "kind: driver, args: [x], ", "has no key"},
		"bundle as well":     {"  driver: files", "  driver: files\n  bundle: x", "source has bundle, and its driver is the plugin files"},
		"config without one": {"  driver: files\n", "", "is for a plugin"},
		"config is a list":   {"config: {days: 7}", "config: [7]", "config is a list"},
		"config by case":     {"{days: 7}", "{days: 7, Days: 8}", "cannot be handed over"},
		"large config":       {"{days: 7}", "{days: \"" + strings.Repeat("x", fleet.MaxPluginConfigBytes) + "\"}", "cannot be handed over"},
		"no plugin":          {"plugin: certificate, ", "", "has no plugin"},
		"of another kind":    {"config: {days: 7}, timeout: 5s", "url: \"http://a/\"", "which has no url"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(goodPlugins, c.from) {
				t.Fatalf("nothing to change: %q", c.from)
			}
			_, err := pluginSettings(t, strings.Replace(goodPlugins, c.from, c.to, 1))
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want %q", err, c.say)
			}
		})
	}
}
