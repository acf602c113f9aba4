package buildinfo

import "github.com/spf13/cobra"

// AddFlag has a program answer --version as its command "version" does. It leaves cobra's
// template as it is, because one of our own would link text/template, with which the linker
// keeps all methods of all types: a fifth of the agent.
func AddFlag(root *cobra.Command) {
	root.Version = Of().String()
	// Without a letter: -v is what people expect to say more.
	root.Flags().Bool("version", false, "show the program's version")
}
