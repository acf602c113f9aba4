package fleetctl

import "github.com/spf13/cobra"

// commands are all commands, each from its own file.
func commands(o *options) []*cobra.Command {
	return []*cobra.Command{
		newInitCommand(o),
		newInventoryCommand(o),
		newPublishCommand(o),
		newStatusCommand(o),
		newTokenCommand(o),
		newReleasesCommand(o),
		newEventsCommand(o),
		newRollbackCommand(o),
		newRetryCommand(o),
		newLoosenCommand(o),
		newBanCommand(o),
		newCarryCommand(o),
		newSignCommand(o),
		newAuditCommand(o),
		newOperatorCommand(o),
		newTrustCommand(o),
		newVarsCommand(o),
		newSecretsCommand(o),
		newSSHCommand(o),
		newKitCommand(o),
		newVersionCommand(o),
	}
}
