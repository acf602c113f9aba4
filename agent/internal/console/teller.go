package console

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/godbus/dbus/v5"
)

// markup is what servers of notifications read in a body.
var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// Show shows a message in the session of the user that this process runs as, on the
// message bus that DBUS_SESSION_BUS_ADDRESS names, a unix:path= only: as the Desktop
// Notifications Specification has it. It runs as that user because the other end is theirs.
func Show(ctx context.Context, m Message) error {
	socket, ok := strings.CutPrefix(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path=")
	if !ok {
		return fmt.Errorf("%w: DBUS_SESSION_BUS_ADDRESS names no unix:path=", ErrUntold)
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	bus, err := dialBus(ctx, socket)
	if err != nil {
		return fmt.Errorf("connecting to the session's message bus: %w", err)
	}
	defer func() { _ = bus.Close() }()
	const critical = byte(2) // Until it is dismissed: whoever is away for a moment is told too.
	err = bus.Object("org.freedesktop.Notifications", "/org/freedesktop/Notifications").CallWithContext(ctx,
		"org.freedesktop.Notifications.Notify", 0, "fleet", uint32(0), "", m.Title, markup.Replace(m.Body),
		[]string{}, map[string]dbus.Variant{"urgency": dbus.MakeVariant(critical)}, int32(-1)).Err
	if err != nil {
		return fmt.Errorf("showing a notification: %w", err)
	}
	return nil
}
