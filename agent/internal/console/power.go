package console

import (
	"os"
	"path/filepath"
	"strings"
)

// onBattery reads the kernel's power supplies (power_supply(5), sysfs-class-power). It is
// so where a battery of the machine's own discharges, or could, and no supply says that it
// is connected: a machine without a battery never is.
func onBattery(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	supplies, battery, discharging := 0, false, false
	for _, e := range entries {
		read := func(name string) string {
			b, err := os.ReadFile(filepath.Join(dir, e.Name(), name))
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(b[:min(len(b), 64)]))
		}
		switch kind := read("type"); {
		case read("scope") == "Device": // Of a mouse, say.
		case kind == "Battery":
			battery = true
			discharging = discharging || read("status") == "Discharging"
		case kind == "Mains" || strings.HasPrefix(kind, "USB") || kind == "Wireless":
			supplies++
			if is := read("online"); is != "" && is != "0" {
				return false
			}
		}
	}
	return battery && (discharging || supplies > 0)
}
