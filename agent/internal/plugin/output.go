package plugin

import (
	"bytes"
	"log/slog"
)

// Bounds on what one process of a plugin may put into the agent's log.
const (
	maxLogLines     = 256
	maxLogLineBytes = 1 << 10
)

// logLines is a plugin's standard error: lines into the agent's log, without
// control characters, of bounded length and number.
type logLines struct {
	log   *slog.Logger
	line  []byte
	lines int
}

// Write never fails: a plugin must not hang or end over what it says.
func (l *logLines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && l.lines <= maxLogLines {
		i := bytes.IndexByte(p, '\n')
		rest := p
		if i >= 0 {
			rest = p[:i]
		}
		if room := maxLogLineBytes - len(l.line); room > 0 {
			l.line = append(l.line, rest[:min(len(rest), room)]...)
		}
		if i < 0 {
			break
		}
		l.flush()
		p = p[i+1:]
	}
	return n, nil
}

func (l *logLines) flush() {
	line := printable(string(l.line))
	l.line = l.line[:0]
	switch l.lines++; {
	case l.lines > maxLogLines:
		l.log.Warn("plugin says more than is kept; what follows is dropped")
	case line != "":
		l.log.Info("plugin says", "line", line)
	}
}

// firstLine is a plugin's standard output: the first line is the handshake, the
// rest goes nowhere.
type firstLine struct {
	buf  []byte
	said bool
	line chan string // has room for one
}

// Write never fails, as that of logLines.
func (f *firstLine) Write(p []byte) (int, error) {
	if f.said {
		return len(p), nil
	}
	f.buf = append(f.buf, p[:min(len(p), maxHelloBytes-len(f.buf))]...)
	if bytes.ContainsRune(p, '\n') || len(f.buf) == maxHelloBytes {
		line, _, _ := bytes.Cut(f.buf, []byte("\n"))
		f.line <- string(line)
		f.said, f.buf = true, nil
	}
	return len(p), nil
}
