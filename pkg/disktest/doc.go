// Package disktest is for tests of full disks: small disks of their own, in a
// process of its own, which are filled and emptied while the test runs.
package disktest
