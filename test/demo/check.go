package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// host is what "fleetctl status -o json" says of a machine, as far as the
// demo looks.
type host struct {
	Machine   string `json:"machine"`
	Connected bool   `json:"connected"`
	Profiles  []struct {
		Profile string `json:"profile"`
		State   string `json:"state"`
		Reason  struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"reason"`
	} `json:"profiles"`
}

// all asks for the status and checks each machine.
func (d *demo) all(ctx context.Context, check func(host) error) error {
	out, err := d.ctl(ctx, "status", "-o", "json")
	if err != nil {
		return err
	}
	var status struct {
		Machines []host `json:"machines"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("reading status: %w", err)
	}
	hosts := status.Machines
	if len(hosts) != len(d.machines) {
		return fmt.Errorf("status has %d machines, want %d", len(hosts), len(d.machines))
	}
	var errs []error
	for _, h := range hosts {
		errs = append(errs, check(h))
	}
	return errors.Join(errs...)
}

// settle waits until each machine is in its wanted state, for the coordinator,
// and its service answers with its wanted version, for anyone who asks.
func (d *demo) settle(ctx context.Context, want func(machine string) (version, state string)) error {
	err := wait(ctx, 25*time.Second, func() error {
		return d.all(ctx, func(h host) error {
			_, state := want(h.Machine)
			if len(h.Profiles) != 1 || h.Profiles[0].State != state {
				return fmt.Errorf("%s: %+v, want %s", h.Machine, h.Profiles, state)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	answers := map[string]int{}
	for _, m := range d.machines {
		version, _ := want(m)
		got, err := d.ask(ctx, m)
		if err != nil {
			return fmt.Errorf("asking %s: %w", m, err)
		}
		if got != version {
			return fmt.Errorf("%s answers %q, want %q", m, got, version)
		}
		answers[got]++
	}
	fmt.Printf("services answer: %v\n", answers)
	return nil
}

// ask gets a machine's version from its web service.
func (d *demo) ask(ctx context.Context, m string) (string, error) {
	files, err := filepath.Glob(filepath.Join(d.host(m), "state", "*", "state", "system", "web.address"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("no address file: %v %w", files, err)
	}
	address, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(address), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return strings.TrimSpace(string(b)), err
}

// checkSecrets looks for the secret on each machine, and that nobody but its
// owner may read it.
func (d *demo) checkSecrets() error {
	for _, m := range d.machines {
		file := filepath.Join(d.host(m), "secrets", "web", "api-token")
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		fi, err := os.Stat(file)
		if err != nil {
			return err
		}
		if string(b) != secretText || fi.Mode().Perm() != 0o400 {
			return fmt.Errorf("%s: the secret is not as published, or its mode is %s", m, fi.Mode())
		}
	}
	fmt.Println("secrets: decrypted on each machine, mode 0400")
	return nil
}

// show prints the status as an operator sees it.
func (d *demo) show(ctx context.Context) error {
	out, err := d.ctl(ctx, "status")
	fmt.Print("\n$ fleetctl status\n", out)
	return err
}

// ctlIn is ctl in another directory than the fleet's repository.
func (d *demo) ctlIn(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "fleetctl"), args...) //nolint:gosec // Our own program.
	cmd.Dir = dir
	cmd.Env = d.operatorEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("fleetctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// explain prints the ends of the logs.
func (d *demo) explain() {
	if d.coordinator != nil {
		fmt.Fprintf(os.Stderr, "\ncoordinator's log ends:\n%s\n", d.coordinator.tail())
	}
	for m, p := range d.agents {
		fmt.Fprintf(os.Stderr, "\n%s's log ends:\n%s\n", m, p.tail())
	}
}
