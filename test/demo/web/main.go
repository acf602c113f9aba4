// Command web is the small web service that the demo deploys: "web start"
// starts it in a session of its own, with a pid file and an address file in
// $FLEET_STATE, and stops the one that ran before; "web check" asks it; "web
// stop" ends it. It ends itself when its pid file is gone or another's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fail(errors.New("usage: web start|serve|check|stop"))
	}
	s := service{state: os.Getenv("FLEET_STATE"), bundle: os.Getenv("FLEET_BUNDLE")}
	if s.state == "" || s.bundle == "" {
		fail(errors.New("FLEET_STATE and FLEET_BUNDLE are not set: the agent sets them"))
	}
	run, ok := map[string]func() error{"start": s.start, "serve": s.serve, "check": s.check, "stop": s.stop}[os.Args[1]]
	if !ok {
		fail(fmt.Errorf("unknown verb %q", os.Args[1]))
	}
	if err := run(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "web:", err)
	os.Exit(1)
}

type service struct{ state, bundle string }

func (s service) pidFile() string     { return filepath.Join(s.state, "web.pid") }
func (s service) addressFile() string { return filepath.Join(s.state, "web.address") }

// version is what the bundle says that it is; "broken" in it breaks the
// health check.
func (s service) version() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.bundle, "version"))
	return strings.TrimSpace(string(b)), err
}

func (s service) start() error {
	if err := s.stop(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_ = os.Remove(s.addressFile())
	cmd := exec.Command(self, "serve") //nolint:noctx // It outlives us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(s.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	for range 100 {
		if _, err := os.Stat(s.addressFile()); err == nil {
			return cmd.Process.Release()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the service did not come up in 5 s")
}

func (s service) serve() error {
	version, err := s.version()
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if strings.Contains(version, "broken") {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, version)
	})
	tmp := s.addressFile() + ".tmp"
	if err := os.WriteFile(tmp, []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.addressFile()); err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		me := strconv.Itoa(os.Getpid())
		for range time.Tick(250 * time.Millisecond) {
			if b, err := os.ReadFile(s.pidFile()); err == nil && string(b) == me {
				continue
			}
			_ = srv.Close()
			return
		}
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// stop takes the pid file away and waits until the service has noticed.
func (s service) stop() error {
	address, err := os.ReadFile(s.addressFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = os.Remove(s.pidFile())
	for range 100 {
		c, err := net.DialTimeout("tcp", string(address), time.Second) //nolint:noctx // Bounded.
		if err != nil {
			return nil //nolint:nilerr // It is gone: what we wait for.
		}
		_ = c.Close()
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the service did not stop in 5 s")
}

func (s service) check() error {
	want, err := s.version()
	if err != nil {
		return err
	}
	address, err := os.ReadFile(s.addressFile())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(address), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != want {
		return fmt.Errorf("%s: got %q, want %q", resp.Status, body, want)
	}
	return nil
}
