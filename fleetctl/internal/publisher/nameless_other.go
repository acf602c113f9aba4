//go:build !linux

package publisher

import "os"

// nameless makes a file in a directory that has no name there any more.
func nameless(dir string) (*os.File, error) { return unnamed(dir) }
