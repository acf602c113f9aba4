//go:build linux

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
)

// sit is this program in a host: it has somebody sit down at the screen, as a display
// manager does, until it is ended. There is no PAM module of logind's in the hosts.
func sit(ctx context.Context, uid uint) error {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	var id, runtime, seat string
	var path dbus.ObjectPath
	var fifo dbus.UnixFD
	var user, vt uint32
	var existing bool
	type property struct {
		Name  string
		Value dbus.Variant
	}
	err = bus.Object("org.freedesktop.login1", "/org/freedesktop/login1").CallWithContext(ctx,
		"org.freedesktop.login1.Manager.CreateSession", 0,
		uint32(uid), uint32(os.Getpid()), "lab", "wayland", "user", "", "seat0", uint32(0), "", "", false, "", "", []property{}). //nolint:gosec // A uid and a pid.
		Store(&id, &path, &runtime, &fifo, &user, &seat, &vt, &existing)
	if err != nil {
		return fmt.Errorf("creating a session: %w", err)
	}
	if existing || seat != "seat0" {
		return fmt.Errorf("session %s at %q, there before: %t", id, seat, existing)
	}
	fmt.Println(path)
	<-ctx.Done()
	return nil
}

// desktop is what shows notifications in a session: it prints them.
type desktop struct{}

// Notify shows one.
func (desktop) Notify(_ string, _ uint32, _, title, body string, _ []string, _ map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	fmt.Printf("%s: %s\n", title, body)
	return 1, nil
}

func showNotifications(ctx context.Context) error {
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	const name = "org.freedesktop.Notifications"
	if err := bus.Export(desktop{}, "/org/freedesktop/Notifications", name); err != nil {
		return err
	}
	if r, err := bus.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("becoming the desktop: %d, %w", r, err)
	}
	<-ctx.Done()
	return nil
}
