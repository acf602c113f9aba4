package coordinator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// newBackupCommand makes "backup".
func newBackupCommand(stdout io.Writer, began func()) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "backup --state-dir DIR FILE|-",
		Short: "Back up the coordinator, while it runs or while it is stopped",
		Long: `Back up the coordinator, while it runs or while it is stopped.

The backup holds the store as it is at one moment and the list of blobs, and
ends with a checksum. Blobs are not in it: publishing again uploads what is
missing. FILE is replaced once the backup is whole and on the disk; - writes to
standard output, which is whole only if the exit code is 0.

Exit codes: 0 done, 1 error, 2 wrong arguments.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			began()
			now := time.Now() //nolint:forbidigo // Here it is injected.
			if args[0] == "-" {
				return Backup(cmd.Context(), dir, now, stdout)
			}
			if err := BackupFile(cmd.Context(), dir, now, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(stdout, "backed up to %s\n", args[0])
			return err
		},
	}
	c.Flags().StringVar(&dir, "state-dir", "", "`DIR` of the coordinator")
	_ = c.MarkFlagRequired("state-dir") // Fails only for a flag that is not there.
	return c
}

// newRestoreCommand makes "restore".
func newRestoreCommand(stdin io.Reader, stdout io.Writer, began func()) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "restore --state-dir DIR FILE|-",
		Short: "Put the store of a backup into an empty state directory",
		Long: `Put the store of a backup into an empty state directory.

Stop the coordinator first, and run this as root or as its user: what root restores
is given to the owner of DIR. Every byte and the chain of events are checked before
the store appears. A directory of blobs may stay; anything else has to be moved away.
Afterwards start the coordinator: hosts hand over the generations that the backup misses, and publishing again
uploads missing blobs and brings back bans.

Exit codes: 0 done, 1 error, 2 wrong arguments.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			began()
			in := stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				in = f
			}
			r, err := Restore(cmd.Context(), dir, in)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(stdout, "restored fleet %s as it was at %s, up to event %d\nthe backup lists %d blobs (%d bytes): what is not in %s/%s is uploaded by publishing again\n",
				r.Fleet, r.Made.UTC().Format(time.RFC3339), r.Events, r.Blobs, r.BlobBytes, dir, blobsDir)
			return err
		},
	}
	c.Flags().StringVar(&dir, "state-dir", "", "`DIR` to restore into")
	_ = c.MarkFlagRequired("state-dir") // Fails only for a flag that is not there.
	return c
}
