package deadman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

const (
	// readBack bounds waiting for a switch that was started to say that it is
	// armed.
	readBack = 10 * time.Second
	// look is the pause between two looks for that, at first.
	look = time.Millisecond / 4
	// maxExtensions bounds how often one order is given more time: an agent that
	// dies of each verification, and begins it anew, must not put it off for ever.
	maxExtensions = 8
)

// ErrNotArmed says that a switch was started and doesn't say that it is armed.
var ErrNotArmed = errors.New("the dead-man switch does not answer")

// Switch is that of one profile, as the agent has it. Its methods are not for
// concurrent use.
type Switch struct {
	dir   string
	start Start
	// launched is when one was started ahead, and not waited for; starts is how long
	// it may take to be there.
	launched time.Time
	starts   time.Duration
}

// Open makes the switch whose files live in dir, below a directory that exists.
func Open(dir string, start Start) (*Switch, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("opening the dead-man switch: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("opening the dead-man switch: %w", err)
	}
	if err := sayings(dir); err != nil {
		return nil, fmt.Errorf("opening the dead-man switch: %w", err)
	}
	return &Switch{dir: dir, start: start, starts: readBack / 8}, nil
}

// Prepare starts a process that waits for an order, where none does, so that
// arming need not wait for one. It ends by itself when none comes.
func (s *Switch) Prepare(ctx context.Context) error {
	there, err := wake(s.dir)
	if err != nil || there {
		return err
	}
	if err := s.launch(ctx, true); err != nil {
		return err
	}
	s.launched = time.Now() //nolint:forbidigo // A pause, by the monotonic clock.
	return nil
}

// Release ends a process that waits without an order.
func (s *Switch) Release() error {
	there, err := wake(s.dir)
	if err != nil || !there {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, fileLeave), nil, 0o600); err != nil {
		return fmt.Errorf("ending an idle dead-man switch: %w", err)
	}
	_, err = wake(s.dir)
	return err
}

func (s *Switch) launch(ctx context.Context, ahead bool) error {
	if err := s.start(ctx, s.dir, filepath.Join(s.dir, fileLog), ahead); err != nil {
		return fmt.Errorf("starting the dead-man switch: %w", err)
	}
	return nil
}

// Arm gives an order, and returns when it is durable and a process has said that
// it waits for its deadline. For an order that was given before, and waits, it
// does nothing; where its process is gone another one counts from the start.
func (s *Switch) Arm(ctx context.Context, o Order) error {
	if err := o.validate(); err != nil {
		return fmt.Errorf("arming the dead-man switch: %w", err)
	}
	old, err := readOrder(s.dir)
	if err != nil || old == nil || old.ID != o.ID {
		if err := s.write(o); err != nil {
			return err
		}
		s.tidy(o.ID)
	} else {
		o = *old
	}
	return s.armed(ctx, o)
}

// Extend counts the deadline of an order that is armed anew, with another length;
// maxExtensions times, and then no more.
func (s *Switch) Extend(ctx context.Context, id string, after time.Duration) error {
	o, err := readOrder(s.dir)
	if err != nil || o == nil || o.ID != id {
		return err
	}
	if o.Sequence >= maxExtensions {
		return nil
	}
	o.After = after
	o.Sequence++
	if err := s.write(*o); err != nil {
		return err
	}
	return s.armed(ctx, *o)
}

func (s *Switch) write(o Order) error {
	data, err := json.Marshal(o)
	if err == nil {
		err = atomicfile.WriteFile(filepath.Join(s.dir, fileOrder), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("giving the dead-man switch its order: %w", err)
	}
	crashpoint.Hit(crashpoint.SwitchOrdered)
	return nil
}

// armed returns when a process says that it waits for the order.
func (s *Switch) armed(ctx context.Context, o Order) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readBack, ErrNotArmed)
	defer cancel()
	again := s.launched.Add(s.starts)
	for began := time.Now(); ; { //nolint:forbidigo // A pause, by the monotonic clock.
		there, err := wake(s.dir)
		if err != nil {
			return err
		}
		if there {
			text, err := os.ReadFile(filepath.Join(s.dir, fileArmed))
			if err == nil && string(text) == armedText(o) {
				crashpoint.Hit(crashpoint.SwitchArmed)
				return nil
			}
		} else if now := time.Now(); now.After(again) { //nolint:forbidigo // As above.
			// Also a second time: one that was just ending let itself be woken for
			// nothing.
			if err := s.launch(ctx, false); err != nil {
				return err
			}
			again = time.Now().Add(s.starts) //nolint:forbidigo // As above; asking may have taken a while.
		}
		pause := look
		if time.Since(began) > 200*look { //nolint:forbidigo // As above.
			pause = 40 * look
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("arming the dead-man switch: %w; see %s", context.Cause(ctx), filepath.Join(s.dir, fileLog))
		case <-time.After(pause):
		}
	}
}

func armedText(o Order) string { return fmt.Sprintf("%s %d\n", o.ID, o.Sequence) }

// Claim leaves a verdict on an order, where nobody did yet, and returns the one
// that counts: after Fired the switch is at work, or was.
func (s *Switch) Claim(id string, v Verdict) (Verdict, error) {
	v, err := claim(s.dir, id, v)
	if err == nil {
		_, err = wake(s.dir)
	}
	return v, err
}

// Done ends an order, whose activation is over on record: nobody waits for it any
// more, and nobody goes on with it.
func (s *Switch) Done(id string) error {
	if _, err := s.Claim(id, Ended); err != nil {
		return err
	}
	o, err := readOrder(s.dir)
	if err == nil && (o == nil || o.ID != id) {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, fileOrder)); err != nil {
		return fmt.Errorf("ending the dead-man switch's order: %w", err)
	}
	crashpoint.Hit(crashpoint.SwitchDone)
	_, err = wake(s.dir)
	return err
}

// Order returns the ID of the order that is to be carried out; empty for none.
func (s *Switch) Order() (string, error) {
	o, err := readOrder(s.dir)
	if err != nil || o == nil {
		return "", err
	}
	return o.ID, nil
}

// Verdict returns the one on an order; empty where there is none.
func (s *Switch) Verdict(id string) (Verdict, error) { return verdictOn(s.dir, id) }

// tidy removes what is left of other orders: a name is never used twice.
func (s *Switch) tidy(id string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		for _, prefix := range []string{filePrefix, fileOutcome, fileBoots} {
			if rest, ok := strings.CutPrefix(e.Name(), prefix); ok && rest != id {
				_ = os.Remove(filepath.Join(s.dir, e.Name()))
			}
		}
	}
}
