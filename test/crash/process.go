//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// service is a program that is started again whenever it was killed, as systemd
// would.
type service struct {
	name string
	make func() *exec.Cmd
	// begin starts what make made.
	begin func(*exec.Cmd) error

	mu   sync.Mutex
	cmd  *exec.Cmd
	want bool
	// odd are ends that nobody asked for.
	odd  []string
	done chan struct{}
}

func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want, s.done = true, make(chan struct{})
	if err := s.run(); err != nil {
		return err
	}
	go s.keep()
	return nil
}

// run starts the program; s.mu is held.
func (s *service) run() error {
	s.cmd = s.make()
	return s.begin(s.cmd)
}

func (s *service) keep() {
	defer close(s.done)
	for {
		s.mu.Lock()
		cmd := s.cmd
		s.mu.Unlock()
		err := cmd.Wait()
		s.mu.Lock()
		switch {
		case !s.want && (err == nil || endedBy(err, syscall.SIGKILL) || endedBy(err, syscall.SIGTERM)): // before it could listen to signals
			s.mu.Unlock()
			return
		case wasKilled(err):
		default:
			s.odd = append(s.odd, fmt.Sprintf("%s ended by itself: %v", s.name, err))
			if !s.want || len(s.odd) > 5 {
				s.mu.Unlock()
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		// It may have died of a signal that came while it was told to stop.
		if !s.want {
			s.mu.Unlock()
			return
		}
		if err := s.run(); err != nil {
			s.odd = append(s.odd, err.Error())
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// stopTimeout is how long a program may take to end.
const stopTimeout = 20 * time.Second

// stop ends the program, and its being started again.
func (s *service) stop() error {
	s.mu.Lock()
	if s.done == nil {
		s.mu.Unlock()
		return nil
	}
	s.want = false
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	done := s.done
	s.mu.Unlock()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		s.mu.Lock()
		_ = s.cmd.Process.Kill()
		s.mu.Unlock()
		<-done
		return fmt.Errorf("%s did not end in %s", s.name, stopTimeout)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = nil
	if len(s.odd) > 0 {
		return errors.New(strings.Join(s.odd, "; "))
	}
	return nil
}

func wasKilled(err error) bool { return endedBy(err, syscall.SIGKILL) }

func endedBy(err error, sig syscall.Signal) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == sig
}

// endBelow kills what still runs with dir in its arguments: runners, which
// outlive their agents, and the programs that they started.
func endBelow(dir string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(args), dir+"/") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
