package bootstrap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// yamlText writes s so that YAML reads text: names such as "on" and "1e3" are
// quoted, most are not.
func yamlText(s string) string {
	plain := s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_./") == ""
	if plain && !slices.Contains([]string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}, s) {
		return s
	}
	return strconv.Quote(s)
}

// fleetFile is the first fleet.yaml.
func fleetFile(cfg Config) []byte {
	var b strings.Builder
	q := yamlText
	fmt.Fprintf(&b, `# yaml-language-server: $schema=%s
# What this fleet is: its machines, who may act on it, and what is deployed.
# Check it with "fleetctl inventory check".

fleet: %s

# Where the coordinator is. Agents and operators connect to the address.
coordinator: {machine: %s, address: %s}
`, inventory.SchemaURL, q(string(cfg.Fleet)), q(string(cfg.Coordinator)), q(cfg.Address))
	if cfg.Inventory != "" {
		fmt.Fprintf(&b, `
# Clan's evaluated inventory. It defines the machines, their classes and tags.
inventory: {file: %s}

# Machines that the inventory does not have. Redefining one of its machines is
# an error.
#machines:
#  box1: {class: linux, tags: [web]}
`, q(cfg.Inventory))
	} else {
		fmt.Fprintf(&b, `
# The fleet's machines. A class is nixos, darwin or linux (the default).
# Clan's evaluated inventory can define them instead:
#inventory: {file: inventory.json}
machines:
  %s: {class: linux}
#  box1: {class: linux, tags: [web]}
`, q(string(cfg.Coordinator)))
	}
	fmt.Fprintf(&b, `
# Machines that are not meant to run now.
#disabled: [box1]

# Roles: viewer, deployer, approver, secrets-admin, admin; see fleetctl operator --help.
operators:
  %s: {role: admin}

# What is deployed. The scopes "all", "class", "tag" and "machine" have equal
# priority: two different values for one setting are an error that names both
# places. Relative paths begin at this file.
#settings:
#  all:
#    policy: {activationDeadline: 10m, verifyDeadline: 2m, onInconclusive: rollback}
#  class:
#    nixos:
#      source: {flake: .}
#  tag:
#    web:
#      source: {bundle: ./bundles/web}
#      probes:
#        health: {kind: http, url: "http://127.0.0.1:8080/health"}
#  machine:
#    box1:
#      secrets:
#        api-token: {file: ./sealed/api-token.age, mode: "0400"}
`, q(string(cfg.Operator)))
	return []byte(b.String())
}
