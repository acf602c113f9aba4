package inventory

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

var probeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// probes reads a map of probes, and returns them by name.
func (d *settingsDecoder) probes(n *node) []fleet.Probe {
	if !d.mapping(n, "probes") {
		return nil
	}
	probes := make([]fleet.Probe, 0, len(n.entries))
	for _, e := range n.entries {
		if !probeName.MatchString(e.key) {
			d.add(e.at, fleet.ErrName, "malformed name: probe "+quote(e.key), "use lower-case letters, digits, dots, dashes and underscores, at most 63")
			continue
		}
		probes = append(probes, d.probe(e))
	}
	if len(probes) > fleet.MaxProbes {
		d.invalid(n.at, "let one exec probe check several things", "%d probes, at most %d", len(probes), fleet.MaxProbes)
	}
	slices.SortFunc(probes, func(a, b fleet.Probe) int { return strings.Compare(a.Name, b.Name) })
	return probes
}

func (d *settingsDecoder) probe(e entry) fleet.Probe {
	what := "probe " + e.key
	p := fleet.Probe{Name: e.key}
	d.fields(e.value, what, map[string]func(*node){
		"kind": func(n *node) {
			p.Kind = enum(&d.decoder, n, "kind of "+what, fleet.ProbeExec, fleet.ProbeHTTP, fleet.ProbeTCP, fleet.ProbeSystemd, fleet.ProbePlugin)
		},
		"argv": func(n *node) {
			for _, arg := range d.list(n, what+": argv") {
				p.Argv = append(p.Argv, d.text(arg, what+": argv"))
			}
		},
		"url":      func(n *node) { p.URL = d.url(n, what+": url") },
		"status":   func(n *node) { p.Status = int(d.whole(n, what+": status", 100, 599)) },
		"contains": func(n *node) { p.Contains = d.text(n, what+": contains") },
		"address": func(n *node) {
			p.Address = d.text(n, what+": address")
			if n.kind == kindString && !fleet.IsHostPort(p.Address) {
				d.invalid(n.at, `write host:port, such as "127.0.0.1:80"`, "%s: address is %s", what, quote(p.Address))
			}
		},
		"plugin": func(n *node) {
			if s := d.text(n, what+": plugin"); n.kind == kindString {
				p.Plugin, _ = parsed(&d.decoder, n.at, s, fleet.ParsePluginName)
			}
		},
		"config":   func(n *node) { p.Config = d.config(n, what+": config") },
		"unit":     func(n *node) { p.Unit = d.unit(n, what+": unit") },
		"timeout":  func(n *node) { p.Timeout = fleet.Duration(d.duration(n, what+": timeout", maxProbe)) },
		"interval": func(n *node) { p.Interval = fleet.Duration(d.duration(n, what+": interval", maxProbe)) },
	})
	if d.complete && (e.value.kind == kindMap || e.value.kind == kindNull) {
		d.completeProbe(e, p)
	}
	return p
}

// completeProbe checks that a merged probe has what its kind needs, and
// nothing of another kind.
func (d *settingsDecoder) completeProbe(e entry, p fleet.Probe) {
	var needs string
	var may []string
	switch p.Kind {
	case fleet.ProbeExec:
		needs = "argv"
	case fleet.ProbeHTTP:
		needs, may = "url", []string{"status", "contains"}
	case fleet.ProbeTCP:
		needs = "address"
	case fleet.ProbeSystemd:
		needs = "unit"
	case fleet.ProbePlugin:
		needs, may = "plugin", []string{"config"}
	default:
		if e.value.get("kind") == nil {
			d.invalid(e.at, "add kind: exec, http, tcp, systemd or plugin", "probe %s has no kind", e.key)
		}
		return
	}
	if v := e.value.get(needs); v == nil || v.kind == kindNull || v.kind == kindList && len(v.list) == 0 {
		d.invalid(e.at, "add it", "probe %s is of kind %s and has no %s", e.key, p.Kind, needs)
	}
	may = append(may, needs, "kind", "timeout", "interval")
	for _, field := range e.value.entries {
		if !slices.Contains(may, field.key) && field.value.kind != kindNull {
			d.invalid(field.at, "remove it, or change the kind", "probe %s is of kind %s, which has no %s", e.key, p.Kind, field.key)
		}
	}
}

func (d *settingsDecoder) url(n *node, what string) string {
	s := d.text(n, what)
	if n.kind != kindString {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		d.invalid(n.at, "write http://host/path or https://host/path, without a password", "%s is %s", what, quote(s))
		return ""
	}
	return s
}

// unit reads the name of a systemd unit.
func (d *settingsDecoder) unit(n *node, what string) string {
	s := d.text(n, what)
	if n.kind == kindString && (s == "" || len(s) > 255 || s[0] == '-' || strings.ContainsAny(s, "/ \t\n\r")) {
		d.invalid(n.at, fmt.Sprintf("write a unit's name, such as %q", "nginx.service"), "%s is %s", what, quote(s))
		return ""
	}
	return s
}
