package console

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Mac is the console of a Mac.
type Mac struct {
	run runner
	// owner is the uid of /dev/console, which belongs to whoever is at the screen, and to
	// root while nobody is logged in.
	owner func() (uint32, error)
}

// Look asks the system's own programs.
func (m *Mac) Look(ctx context.Context) (f Facts) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	f.Presence = Nobody
	switch uid, err := m.owner(); {
	case err != nil:
		f.Presence, f.Doubt = Unknown, "who is at the console can't be told: "+err.Error()
	case uid != 0:
		f.Presence, f.Person = Somebody, Person{UID: uid, Session: SessionGraphical}
		out, err := m.run(ctx, program{argv: []string{"/usr/sbin/ioreg", "-c", "IOHIDSystem", "-d", "4", "-r", "-k", "HIDIdleTime"}})
		if err == nil {
			f.Unused, err = hidIdle(out)
		}
		if err != nil {
			f.Doubt = "whether the screen is used can't be told: " + err.Error()
		}
	}
	// What can't be told is mains power: nothing says that it is not.
	if out, err := m.run(ctx, program{argv: []string{"/usr/bin/pmset", "-g", "batt"}}); err == nil {
		f.OnBattery = drawsFromBattery(out)
	}
	return f
}

var (
	hidIdleTime  = regexp.MustCompile(`"HIDIdleTime" = ([0-9]+)`)
	drawsFrom    = regexp.MustCompile(`(?m)^Now drawing from '([^']*)'`)
	errNoIdle    = errors.New("ioreg names no HIDIdleTime")
	batteryPower = "Battery Power"
)

// hidIdle reads for how long no key, pointer or touch was noticed: ioreg prints nanoseconds.
func hidIdle(out []byte) (time.Duration, error) {
	m := hidIdleTime.FindSubmatch(out)
	if m == nil {
		return 0, errNoIdle
	}
	ns, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ioreg's HIDIdleTime: %w", err)
	}
	return time.Duration(ns), nil
}

// drawsFromBattery reads what pmset prints first: Now drawing from 'AC Power'.
func drawsFromBattery(out []byte) bool {
	m := drawsFrom.FindSubmatch(out)
	return m != nil && string(m[1]) == batteryPower
}

// show is what osascript runs: what it shows are its arguments, and no part of it.
var show = []string{"on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"}

// Tell shows a notification in the person's session, as them.
func (m *Mac) Tell(ctx context.Context, to Person, msg Message) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	uid := strconv.FormatUint(uint64(to.UID), 10)
	argv := []string{"/bin/launchctl", "asuser", uid, "/usr/bin/sudo", "-n", "-u", "#" + uid, "/usr/bin/osascript"}
	for _, line := range show {
		argv = append(argv, "-e", line)
	}
	_, err := m.run(ctx, program{argv: append(argv, msg.Title, msg.Body)})
	return err
}
