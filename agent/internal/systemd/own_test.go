package systemd

import "testing"

func TestUnitOf(t *testing.T) {
	for cgroup, want := range map[string]string{
		"0::/system.slice/fleet-agent.service\n":                                        "fleet-agent.service",
		"0::/system.slice/fleet-agent.service/below\n":                                  "fleet-agent.service",
		"0::/system.slice/system-fleet\\x2dagent.slice/fleet-agent@a.service\n":         "fleet-agent@a.service",
		"4:memory:/x.service\n1:name=systemd:/system.slice/fleet-agent.service\n0::/\n": "fleet-agent.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                 "",
		"0::/user.slice/user-0.slice/user@0.service/app.slice/app-shell.scope\n":        "",
		"0::/\n": "",
		"9:name=systemd:/\n8:pids:/\n0::/system.slice/fleet-agent.service\n": "fleet-agent.service",
		"no cgroup\n": "",
		"":            "",
	} {
		if got := unitOf(cgroup); got != want {
			t.Errorf("of %q: %q, want %q", cgroup, got, want)
		}
	}
}
