//go:build linux

package main

import (
	"context"
	"slices"
	"time"
)

// group is scenarios that follow each other on the same hosts.
type group struct {
	name      string
	setUp     func(context.Context, *world) error
	scenarios []scenario
}

// scenario is one row of the table. It leaves the host confirmed and connected,
// or fails.
type scenario struct {
	name string
	// shows is what was asserted, for the table.
	shows string
	run   func(context.Context, *world) error
}

// scenarioTimeout bounds one scenario.
const scenarioTimeout = 5 * time.Minute

func groups() []group {
	return []group{
		{"Drivers", setUpDrivers, driverScenarios()},
		{"Nix modules", setUpModules, moduleScenarios()},
		{"Packages", setUpPackages, packageScenarios()},
		{"Bundles", setUpBundles, bundleScenarios()},
		{"Console", setUpConsole, consoleScenarios()},
		{"Out paths", setUpBundles, outPathScenarios()},
		{"NixOS", setUpNixOS, slices.Concat(nixosScenarios(), sourceScenarios(), retentionScenarios(), crashScenarios(), goneScenarios())},
		{"Five hosts", setUpFive, slices.Concat(fiveScenarios(), trustScenarios(), outageScenarios())},
		{"Secrets", setUpSecrets, secretScenarios()},
		{"Homes", setUpHomes, homeScenarios()},
		{"Agents", setUpAgents, agentScenarios()},
		{"Reboots", setUpReboots, rebootScenarios()},
		{"Services", setUpNixOS, slices.Concat(serviceScenarios(), shutdownScenarios())},
		{"Services, killed", setUpCrashPoints, installKilledScenarios()},
		{"Crash points", setUpCrashPoints, crashPointScenarios()},
		{"Power loss", setUpPower, powerScenarios()},
		{loaderGroup, setUpLoader, loaderScenarios()},
	}
}
