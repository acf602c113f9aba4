package inventory

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
)

// Source is where a machine's generations come from, not pinned yet. It is
// comparable: machines with equal sources get the same.
type Source struct {
	// Driver carries it out; set wherever there is a source.
	Driver string `json:"driver,omitempty"`
	// Bundle is the absolute path of a bundle's directory.
	Bundle string `json:"bundle,omitempty"`
	// Flake is a flake reference: a URL, or the absolute path of a directory.
	Flake string `json:"flake,omitempty"`
	// Attr is what to build of the flake.
	Attr string `json:"attr,omitempty"`
	// URL is where hosts find the flake; empty where they use the locked form
	// of Flake.
	URL string `json:"url,omitempty"`
	// Build says that the publisher builds too and pins the whole closure.
	Build bool `json:"build,omitempty"`
	// StorePath is a store path, or the absolute path of a link to one.
	StorePath string `json:"store_path,omitempty"`
	// Config, a JSON object, and Files, the absolute path of a directory, are for
	// a driver that is a plugin; empty for none.
	Config string `json:"config,omitempty"`
	Files  string `json:"files,omitempty"`
}

// IsZero says whether there is no source.
func (s Source) IsZero() bool { return s == Source{} }

// IsExternal says whether the driver is a plugin.
func (s Source) IsExternal() bool { return s.Driver != "" && !fleet.IsBuiltinDriver(s.Driver) }

// What stands in source.attr for the machine's name, for its platform as Nix
// calls it, and, in that of a home profile, for the user.
const (
	attrMachine  = "{machine}"
	attrPlatform = "{platform}"
	attrUser     = "{user}"
)

// defaultAttr is what flakes call the thing that a driver wants: nixosSystem
// puts it there, darwinSystem, system-manager's makeSystemConfig, and who calls home-manager's
// homeManagerConfiguration for each user and kind of machine.
func defaultAttr(driver string) string {
	switch driver {
	case fleet.DriverNixOS:
		return "nixosConfigurations." + attrMachine + ".config.system.build.toplevel"
	case fleet.DriverDarwin:
		return "darwinConfigurations." + attrMachine + ".system"
	case fleet.DriverHome:
		return `homeConfigurations."` + attrUser + "@" + attrPlatform + `".activationPackage`
	}
	return "systemConfigs." + attrMachine
}

// filled puts names for what stands for them.
func (d *settingsDecoder) filled(attr string) string {
	return strings.NewReplacer(attrMachine, string(d.machine.Name), attrPlatform, d.nix, attrUser, d.user).Replace(attr)
}

// flakeSchemes are the kinds of flake references that name where something is.
// Names of a registry are none: they mean something else on another machine.
var flakeSchemes = []string{
	"git", "git+file", "git+http", "git+https", "git+ssh", "github", "gitlab", "sourcehut",
	"hg+file", "hg+http", "hg+https", "hg+ssh", "path",
	"tarball+file", "tarball+http", "tarball+https", "file", "http", "https",
}

// maxFlakeRef bounds a flake reference, in bytes.
const maxFlakeRef = 2048

func (d *settingsDecoder) source(n *node) (s Source) {
	d.fields(n, "source", map[string]func(*node){
		"driver": func(n *node) {
			names := []driverName{fleet.DriverBundle, fleet.DriverNix, fleet.DriverNixOS, fleet.DriverDarwin, fleet.DriverHome}
			s.Driver = string(enum(&d.decoder, n, "source.driver", append(names, d.f.plugins...)...))
		},
		"bundle": func(n *node) {
			if p := d.path(n, "source.bundle"); p != "" {
				s.Bundle = d.f.resolve(p)
			}
		},
		"flake":     func(n *node) { s.Flake = d.flake(n, "source.flake") },
		"attr":      func(n *node) { s.Attr = d.attr(n) },
		"url":       func(n *node) { s.URL = d.flakeURL(n) },
		"build":     func(n *node) { s.Build = d.boolean(n, "source.build") },
		"storePath": func(n *node) { s.StorePath = d.storePath(n) },
		"config":    func(n *node) { s.Config = string(d.config(n, "source.config")) },
		"files": func(n *node) {
			if p := d.path(n, "source.files"); p != "" {
				s.Files = d.f.resolve(p)
			}
		},
	})
	if d.complete && n.kind == kindMap {
		d.completeSource(n, &s)
	}
	return s
}

// driverName lets enum read a driver's name.
type driverName string

// completeSource checks that a merged source is one thing, and fills in what
// follows from the machine.
func (d *settingsDecoder) completeSource(n *node, s *Source) {
	var set, kinds []string
	for _, e := range n.entries {
		if e.value.kind == kindNull {
			continue
		}
		set = append(set, e.key)
		if e.key == "bundle" || e.key == "flake" || e.key == "storePath" {
			kinds = append(kinds, e.key)
		}
	}
	if len(set) == 0 && d.user == "" {
		return
	}
	for _, key := range set {
		external := key == "config" || key == "files"
		switch {
		case s.IsExternal() && !external && key != "driver":
			d.add(n.get(key).at, ErrConflict, fmt.Sprintf("source has %s, and its driver is the plugin %s", key, s.Driver), "give the plugin config and files")
			return
		case !s.IsExternal() && external:
			d.invalid(n.get(key).at, "add driver: the name of a plugin", "source.%s is for a plugin, and the driver is none", key)
			return
		}
	}
	if s.IsExternal() {
		return
	}
	if len(kinds) > 1 {
		d.add(n.get(kinds[1]).at, ErrConflict, fmt.Sprintf("source has %s and %s", kinds[0], kinds[1]), "keep one of them")
		return
	}
	if len(kinds) == 0 {
		if s.Driver == fleet.DriverBundle {
			d.invalid(n.get("driver").at, "add bundle: DIR", "source.driver is bundle, and there is no bundle")
			return
		}
		s.Flake = d.f.dir
		kinds = []string{"flake"}
	}
	kind := kinds[0]
	if s.Driver == "" {
		s.Driver = d.defaultDriver(kind)
	}
	d.checkDriver(n, kind, s.Driver)
	if kind == "flake" && s.Attr == "" && n.get("attr") == nil {
		s.Attr = defaultAttr(s.Driver)
	}
	s.Attr = d.filled(s.Attr)
	if kind != "flake" {
		for _, key := range []string{"attr", "url", "build"} {
			if slices.Contains(set, key) {
				d.invalid(n.get(key).at, "remove it", "source.%s is about a flake, and the source is a %s", key, kind)
			}
		}
	}
}

func (d *settingsDecoder) defaultDriver(kind string) string {
	switch {
	case kind == "bundle":
		return fleet.DriverBundle
	case d.user != "":
		return fleet.DriverHome
	case d.machine.Class == fleet.ClassNixOS:
		return fleet.DriverNixOS
	case d.machine.Class == fleet.ClassDarwin:
		return fleet.DriverDarwin
	}
	return fleet.DriverNix
}

// checkDriver refuses a driver that can't carry out the kind of source, or
// isn't for the class of machine.
func (d *settingsDecoder) checkDriver(n *node, kind, driver string) {
	at := n.at
	if v := n.get("driver"); v != nil {
		at = v.at
	}
	class := map[string]fleet.Class{fleet.DriverNixOS: fleet.ClassNixOS, fleet.DriverDarwin: fleet.ClassDarwin}[driver]
	switch {
	case (kind == "bundle") != (driver == fleet.DriverBundle):
		d.add(at, ErrConflict, fmt.Sprintf("source is a %s, and its driver is %s", kind, driver), "leave the driver out: it follows from the source and the class")
	case driver == fleet.DriverHome && d.user == "", d.user != "" && class != "":
		d.add(at, ErrConflict, fmt.Sprintf("source.driver is %s, which is not for the profile %s", driver, d.profileName()),
			"home is for profiles home/<user>, nixos and darwin for the system of a machine")
	case class != "" && d.machine.Class != class:
		d.add(at, ErrConflict, fmt.Sprintf("source.driver is %s, and machine %s is of class %s", driver, d.machine.Name, d.machine.Class),
			"write driver: nix for an out path with an activate program, or correct the machine's class")
	}
}

func (d *settingsDecoder) profileName() fleet.ProfileName {
	if d.user == "" {
		return fleet.System
	}
	return fleet.ProfileName("home/" + d.user)
}

// flake reads a flake reference. Paths become absolute.
func (d *settingsDecoder) flake(n *node, what string) string {
	const hint = "write a path such as ., or a URL such as git+https://example.org/fleet or github:owner/repository"
	s := d.text(n, what)
	if n.kind != kindString || !d.plainRef(n, what, hint) {
		return ""
	}
	if s[0] == '.' || s[0] == '/' {
		if strings.Contains(s, "?") {
			d.invalid(n.at, "write git+file:///PATH?… or path:/PATH?…", "%s is a path with a question mark: %s", what, quote(s))
			return ""
		}
		return d.f.resolve(s)
	}
	return d.checkScheme(n, what, hint)
}

// flakeURL reads where hosts find the flake. The revision is added when it is
// published.
func (d *settingsDecoder) flakeURL(n *node) string {
	const hint = "write a URL that hosts reach, such as git+https://example.org/fleet"
	s := d.text(n, "source.url")
	if n.kind != kindString || !d.plainRef(n, "source.url", hint) || d.checkScheme(n, "source.url", hint) == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil {
		return "" // checkScheme has said so.
	}
	for _, key := range []string{"rev", "narHash", "lastModified", "revCount"} {
		if u.Query().Has(key) {
			d.invalid(n.at, "leave it out: publish adds the revision and the hash", "source.url has %s: %s", key, quote(s))
			return ""
		}
	}
	return s
}

// plainRef refuses what no flake reference may have here.
func (d *settingsDecoder) plainRef(n *node, what, hint string) bool {
	s := n.text
	switch {
	case s == "" || len(s) > maxFlakeRef || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		d.invalid(n.at, hint, "%s is no flake reference: %s", what, quote(s))
	case strings.Contains(s, "#"):
		d.invalid(n.at, "what is behind the # goes to attr", "%s has a fragment: %s", what, quote(s))
	default:
		return true
	}
	return false
}

// checkScheme wants a URL that names a place, without a password.
func (d *settingsDecoder) checkScheme(n *node, what, hint string) string {
	s := n.text
	scheme, _, ok := strings.Cut(s, ":")
	u, err := url.Parse(s)
	switch {
	case !ok || err != nil:
		d.invalid(n.at, hint, "%s is neither a path nor a URL: %s", what, quote(s))
	case !slices.Contains(flakeSchemes, scheme):
		d.add(n.at, ErrUnknown, fmt.Sprintf("%s is a URL of the unknown kind %s", what, quote(scheme)), suggest(scheme, flakeSchemes))
	case hasPassword(u):
		d.invalid(n.at, "everybody who sees a release would read it: let hosts have their own access", "%s has a password", what)
	default:
		return s
	}
	return ""
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

func (d *settingsDecoder) attr(n *node) string {
	s := d.text(n, "source.attr")
	if n.kind != kindString {
		return ""
	}
	if d.user == "" && strings.Contains(s, attrUser) {
		d.invalid(n.at, "only that of a profile home/<user> has one", "source.attr names a user: %s", quote(s))
		return ""
	}
	// The names that stand there later fit wherever this does.
	names := strings.NewReplacer(attrMachine, "machine", attrPlatform, "platform", attrUser, "user")
	if strings.ContainsAny(names.Replace(s), "{}") {
		hint := "known are " + attrMachine + " and " + attrPlatform
		if d.user != "" {
			hint += " and " + attrUser
		}
		d.invalid(n.at, hint, "source.attr has a brace that stands for nothing: %s", quote(s))
		return ""
	}
	if _, err := nix.ParseAttrPath(names.Replace(s)); err != nil {
		d.add(n.at, ErrInvalid, "source.attr: "+err.Error(), "write a path such as nixosConfigurations."+attrMachine+".config.system.build.toplevel")
		return ""
	}
	return s
}

func (d *settingsDecoder) storePath(n *node) string {
	p := d.path(n, "source.storePath")
	if p == "" {
		return ""
	}
	p = d.f.resolve(p)
	if !strings.HasPrefix(p, "/nix/store/") {
		return p
	}
	if err := fleet.ValidateStorePath(p); err != nil {
		d.invalid(n.at, "write /nix/store/HASH-NAME, or a link to it such as ./result", "source.storePath is no store path: %s", quote(n.text))
		return ""
	}
	return p
}
