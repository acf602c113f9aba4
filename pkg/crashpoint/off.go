//go:build !crashpoints

package crashpoint

// Enabled says whether this program has crash points.
const Enabled = false

// Hit says that the program is at p.
func Hit(Point) {}

// HitFor says that the program is at p, and with what: a word without spaces,
// such as the kind of a record.
func HitFor(_ Point, _ string) {}

// HitCaller says that the program is at p, on behalf of the function that called
// into the packages that write files and directories.
func HitCaller(Point) {}
