// Package watchdog tells a service manager that a program is up, what it does, and
// that it makes progress: the service manager ends and starts again what gets
// stuck.
//
// Each loop of a program says what it does and how long that may take, or that it
// waits for something to do (Progress). While one is late, the service manager is
// told nothing. A build of an hour is progress: whoever waits for it says so.
package watchdog
