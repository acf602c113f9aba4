// Package service installs the programs as services of the system that they run
// on (systemd, launchd), removes them again, and starts, stops and asks about
// them.
//
// What starts, stops and restarts a systemd unit, and what tells one init system
// from another, is github.com/kardianos/service. The rest is done here, because
// that library can't: its Install refuses a unit that is there, writes it in
// place, where a power loss leaves half of one, and knows neither Type=notify nor
// a watchdog; its Status has no reason why a unit failed, and takes one that is
// stopping for one that isn't installed; and on macOS it uses launchctl's load
// and unload, which say 0 where they failed, and can't be pointed at a stand-in.
package service
