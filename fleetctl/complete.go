package fleetctl

import (
	"slices"

	"github.com/spf13/cobra"
)

// completeMachines offers the fleet's machines to the shell, those aside that
// are on the line already; most is how many a command takes, 0 for any number.
func (o *options) completeMachines(most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		w, err := o.open()
		if err != nil || most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, m := range w.fleet.Machines() {
			if !slices.Contains(args, string(m.Name)) {
				names = append(names, string(m.Name))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
