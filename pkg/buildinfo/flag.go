package buildinfo

import "github.com/spf13/cobra"

// AddFlag has a program answer --version as its command "version" does.
func AddFlag(root *cobra.Command) {
	root.Version = Version()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	// Without a letter: -v is what people expect to say more.
	root.Flags().Bool("version", false, "show the program's version")
}
