// Package console knows who is at the machine's screen and keyboard, whether they use
// it, and on what power the machine runs; and tells them something.
//
// What can't be told errs on the side of not disturbing anybody: somebody is there, and
// uses the screen, and is told as well as can be. The policy bounds how long that may
// hold anything up. Where a system has no logind at all nobody can be at its screen in a
// way that anything here could know, and nobody is; and what does not say that it is on
// battery is on mains power.
package console

import (
	"context"
	"errors"
	"time"
)

// Presence says whether somebody is at the console.
type Presence string

// What is known of it.
const (
	Nobody   Presence = "nobody"
	Somebody Presence = "somebody"
	// Unknown: somebody may be.
	Unknown Presence = "unknown"
)

// Facts are what is known of the console at one time.
type Facts struct {
	Presence Presence
	// Person is who is there, where Presence is Somebody.
	Person Person
	// Unused is for how long the screen, keyboard and pointer were not used, in time awake;
	// 0 where they are, or where that can't be told.
	Unused time.Duration
	// OnBattery says that the machine certainly runs on battery.
	OnBattery bool
	// Doubt is what can't be told, and why, for people; empty for nothing.
	Doubt string
}

// Person is somebody at the console.
type Person struct {
	UID uint32
	// Session is what they are logged in with.
	Session Session
	// TTY is the text console of a SessionText, without its directory.
	TTY string
}

// Session is the kind of a login.
type Session string

// The kinds of sessions.
const (
	SessionText      Session = "text"
	SessionGraphical Session = "graphical"
)

// Message is what somebody is told: plain text without control characters, a line each.
type Message struct {
	Title, Body string
}

// ErrUntold says that nobody could be told: what a session has no way to show.
var ErrUntold = errors.New("the person at the console can't be told")

// Console is that of this machine, or a test's. Methods MUST be safe for concurrent use,
// and come back within some seconds whatever the system does.
type Console interface {
	// Look finds out about the console. What can't be found out is in Facts.Doubt.
	Look(ctx context.Context) Facts
	// Tell shows a message to a person that Look found. Errors wrap ErrUntold where there
	// is no way to.
	Tell(ctx context.Context, to Person, m Message) error
}

const (
	// lookTimeout bounds one look: the agent decides nothing else meanwhile.
	lookTimeout = 2 * time.Second
	// tellTimeout bounds telling somebody.
	tellTimeout = 5 * time.Second
	// maxOutput bounds what is read of a program, in bytes: ioreg prints some 10 KiB.
	maxOutput = 256 << 10
)
