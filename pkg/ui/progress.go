package ui

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress shows what a long command is doing, on one line of a terminal that
// is written over. Off a terminal it shows warnings only. It is safe for
// concurrent use.
type Progress struct {
	w   io.Writer
	tty bool
	now func() time.Time

	mu    sync.Mutex // guards what follows
	line  string
	drawn time.Time
}

// redraw is the least time between two drawings of a moving line.
const redraw = 100 * time.Millisecond

// NewProgress writes to w, which is a terminal or not.
func NewProgress(w io.Writer, tty bool, now func() time.Time) *Progress {
	return &Progress{w: w, tty: tty, now: now}
}

// Status says what is being done.
func (p *Progress) Status(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(text)
}

// Bytes says how far a transfer is.
func (p *Progress) Bytes(what string, done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done < total && p.now().Sub(p.drawn) < redraw {
		return
	}
	percent := uint64(100)
	if total > 0 {
		percent = done * 100 / total
	}
	p.draw(fmt.Sprintf("%s %3d %%  %s of %s", what, percent, Size(done), Size(total)))
}

// Say writes a line that stays.
func (p *Progress) Say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line
	p.clear()
	_, _ = fmt.Fprintln(p.w, text)
	if line != "" {
		p.draw(line)
	}
}

// Done removes the moving line.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *Progress) draw(line string) {
	if !p.tty {
		return
	}
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	p.line, p.drawn = line, p.now()
}

func (p *Progress) clear() {
	if p.tty && p.line != "" {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.line = ""
}

// Size is a number of bytes for people.
func Size(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		v, unit = v/step, u
		if v < step {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// Ago is how long before now t was, for people, in one or two units; "never"
// for the zero time.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < -time.Minute:
		return "in the future"
	case d < 2*time.Second:
		return "now"
	}
	return Span(d) + " ago"
}

// Span is a duration for people, in one or two units.
func Span(d time.Duration) string {
	d = d.Round(time.Second)
	const day = 24 * time.Hour
	two := func(a time.Duration, an string, b time.Duration, bn string) string {
		if rest := d % a / b; rest > 0 {
			return fmt.Sprintf("%d%s%d%s", d/a, an, rest, bn)
		}
		return fmt.Sprintf("%d%s", d/a, an)
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(time.Minute, "m", time.Second, "s")
	case d < day:
		return two(time.Hour, "h", time.Minute, "m")
	}
	return two(day, "d", time.Hour, "h")
}
