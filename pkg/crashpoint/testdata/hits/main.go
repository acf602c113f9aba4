// Hits calls the crash points that its arguments name, a number each, and says
// so, with "/WHAT" behind the number for HitFor.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

func main() {
	for _, arg := range os.Args[1:] {
		number, what, _ := strings.Cut(arg, "/")
		p, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if what == "" {
			crashpoint.Hit(crashpoint.Point(p))
		} else {
			crashpoint.HitFor(crashpoint.Point(p), what)
		}
		fmt.Println(arg)
	}
}
