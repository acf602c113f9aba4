//go:build linux

package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

const (
	// coordinatorName is what hosts may call the coordinator, by their own /etc/hosts.
	coordinatorName = "coordinator.lab.invalid"
	// frontUnit is what takes the coordinator's place on a host.
	frontUnit = "lab-front.service"
	// insideDropIn has the coordinator listen for its own host only.
	insideDropIn = "/run/systemd/system/fleet-coordinator.service.d/inside.conf"
)

func trustScenarios() []scenario {
	row := func(name, shows string, run func(context.Context, *five) error) scenario {
		return scenario{name, shows, func(ctx context.Context, w *world) error { return run(ctx, w.five) }}
	}
	return []scenario{
		row("only TLS fails on one, and the coordinator's name on another", "something answers at the coordinator's port, and is not it; the other host knows it by a name, which is gone: both rolled back, healthy at most 10 s after activation and deadline; the others are as before", nobodyThere),
		row("only TLS fails on the coordinator's host", "what answers at its port is not the coordinator: rolled back, healthy at most 10 s after the deadline; the others come back by themselves", func(ctx context.Context, f *five) error {
			return f.breaks(ctx, cinnabar, f.frontOfAll(), "coordinator-unreachable")
		}),
		row("a certificate expires in a long sleep", "the host comes back by itself: it renews by the certificate that has ended, under the same identity, and runs the newest generation; activated once", expiresAsleep),
	}
}

// front has a host's own port answer for the coordinator, with what is no TLS.
func (f *five) front() string {
	return "ip -6 addr add " + f.ops.Address + "/128 dev lo nodad\n" + f.noTLS()
}

func (f *five) noTLS() string {
	return "systemd-run -q --collect --unit=" + frontUnit + " systemd-socket-activate --accept --inetd -l '[" + f.ops.Address + "]:7443' echo 'this is no TLS'"
}

// frontOfAll puts the same in the coordinator's place, for all hosts.
func (f *five) frontOfAll() string {
	return coordinatorRuns(insideDropIn, `$(echo "$argv" | sed 's/\[::\]:7443/[::1]:7443/')`) + "\n" + f.noTLS()
}

// coordinatorRuns is a script that has the coordinator be started with other arguments,
// which may name those that it has: argv.
func coordinatorRuns(dropIn, argv string) string {
	return `argv=$(systemctl show -p ExecStart --value fleet-coordinator | sed 's/.*argv\[\]=\([^;]*\) ;.*/\1/')
mkdir -p $(dirname ` + dropIn + `)
printf '[Service]\nExecStart=\nExecStart=%s\n' "` + argv + `" >` + dropIn + `
systemctl daemon-reload
systemctl restart fleet-coordinator`
}

// nobodyThere breaks TLS on one host and the coordinator's name on another, at once.
func nobodyThere(ctx context.Context, f *five) error {
	byName := f.hosts[scheelite]
	if _, err := byName.Run(ctx, "fleet-agent", "install", "--force", "--coordinator", coordinatorName+":7443"); err != nil {
		return err
	}
	if err := f.becomeGood(ctx, scheelite, galena); err != nil {
		return fmt.Errorf("by its name: %w", err)
	}
	// Go's programs know the file's contents for 5 s.
	does := map[string]string{galena: f.front(), scheelite: "sed -i /" + coordinatorName + "/d /etc/hosts; sleep 6"}
	versions := map[string]string{}
	for name, what := range does {
		version, err := f.bundle(ctx, name, what)
		if err != nil {
			return err
		}
		versions[name] = version
	}
	numbers, err := f.release(ctx, galena, scheelite)
	if err != nil {
		return err
	}
	began := time.Now()
	for name := range does {
		if err := f.isBack(ctx, name, numbers[name], versions[name], "coordinator-unreachable"); err != nil {
			return err
		}
	}
	if err := f.healthyWithin(began, 6*time.Second+verifyWithin+10*time.Second); err != nil {
		return err
	}
	if _, err := byName.Run(ctx, "fleet-agent", "install", "--force"); err != nil {
		return err
	}
	if err := f.becomeGood(ctx, scheelite, galena); err != nil {
		return err
	}
	return f.othersRest(ctx, "")
}

// shortProgram is a coordinator whose hosts' certificates live for seconds.
const shortProgram = "fleet-coordinator-shortlived"

// expiresAsleep has a host enrolled with a certificate that ends while the host is off.
func expiresAsleep(ctx context.Context, f *five) (err error) {
	if err := f.compile(ctx, shortProgram, "./cmd/fleet-coordinator", "build", "-tags", "grpcnotrace,shortlived", "-trimpath"); err != nil {
		return err
	}
	h := f.hosts[electrum]
	const dropIn = "/run/systemd/system/fleet-coordinator.service.d/shortlived.conf"
	if _, err := f.ops.Shell(ctx, coordinatorRuns(dropIn, booted.Programs+"/"+shortProgram+" ${argv#* }")); err != nil {
		return err
	}
	long := func() error {
		_, err := f.ops.Shell(ctx, "rm "+dropIn+"; systemctl daemon-reload; systemctl restart fleet-coordinator")
		return err
	}
	join, err := f.fleetctl(ctx, "token", electrum)
	if err == nil {
		_, err = h.Input(ctx, join, "sh", "-euc", "systemctl stop fleet-agent; fleet-agent enrol -")
	}
	if err = errors.Join(err, long()); err != nil {
		return err
	}
	if err := h.PowerOff(ctx); err != nil {
		return err
	}
	version, err := f.bundle(ctx, electrum, "")
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, electrum)
	if err != nil {
		return err
	}
	file := h.KeptPath("/var/lib/fleet/agent/identity/host.crt")
	ends, serial, err := certificate(file)
	if err != nil {
		return err
	}
	if left := time.Until(ends); left > time.Minute {
		return fmt.Errorf("its certificate lives for %s", left)
	}
	if err := wait(ctx, time.Minute+10*time.Second, func() error {
		if left := time.Until(ends); left > -2*time.Second {
			return fmt.Errorf("its certificate lives for %s", left)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := h.Boot(ctx); err != nil {
		return err
	}
	if err := f.isGood(ctx, electrum, numbers[electrum], version); err != nil {
		return err
	}
	after, renewed, err := certificate(file)
	if err == nil && (renewed == serial || time.Until(after) < time.Hour) {
		err = fmt.Errorf("its certificate ends %s, and was not renewed", after)
	}
	if err != nil {
		return err
	}
	return f.othersRest(ctx, "")
}

// certificate reads when the first certificate of a file ends, and its number.
func certificate(file string) (ends time.Time, serial string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, "", err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return time.Time{}, "", fmt.Errorf("%s has no certificate", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, "", err
	}
	return c.NotAfter, c.SerialNumber.String(), nil
}
