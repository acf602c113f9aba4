package service

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// Commands are start, stop and restart of a service. host is asked for the
// system, and say gets what was done.
func Commands(service string, host func() (Host, error), say func(Report) error) []*cobra.Command {
	command := func(verb Verb, short, long, did string) *cobra.Command {
		return &cobra.Command{
			Use: string(verb), Short: short, Long: long, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				h, err := host()
				if err != nil {
					return err
				}
				if h.EUID != 0 {
					return notRoot(string(verb) + " of " + service)
				}
				if err := h.Manager.Control(cmd.Context(), service, verb); err != nil {
					return err
				}
				return say(Report{Service: service, Did: []string{fmt.Sprintf("%s %s", did, service)}})
			},
		}
	}
	return []*cobra.Command{
		command(Start, "Start the installed service", "Start the service that \""+service+" install\" made, and wait until it is up.", "started"),
		command(Stop, "Stop the installed service", "Stop the service, until it is started or the system starts anew.", "stopped"),
		command(Restart, "Restart the installed service", "Restart the service, and wait until it is up.", "restarted"),
	}
}

// logCommand is how a person reads what a service printed.
func logCommand(service string) string {
	if runtime.GOOS == "darwin" {
		return "less " + LogFile(service)
	}
	return "journalctl -u " + service + " -n 50"
}
