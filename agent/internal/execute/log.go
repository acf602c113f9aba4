package execute

import (
	"os"
	"time"
)

// cutNote ends a log that was longer than its bound.
const cutNote = "\n[the output was longer; the rest was cut off]\n"

// logInterval is the pause between looks at the log's size.
const logInterval = 100 * time.Millisecond

// boundedLog keeps a file that others append to below a bound. They write to
// the file itself, in append mode, so cutting it back makes them go on at its
// new end; between two looks it may be longer.
type boundedLog struct {
	file *os.File
	most int64
	cut  bool
}

// size is the file's length; 0 where that can't be told.
func (l *boundedLog) size() int64 {
	fi, err := l.file.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}

// trim cuts the file back. Errors are nobody's business: a full disk must not
// fail an activation for its log.
func (l *boundedLog) trim() {
	fi, err := l.file.Stat()
	if err != nil || fi.Size() <= l.most {
		return
	}
	l.cut = l.file.Truncate(l.most) == nil
}

// finish trims for the last time and says whether something was cut.
func (l *boundedLog) finish() {
	l.trim()
	if l.cut {
		_ = l.file.Truncate(l.most)
		_, _ = l.file.WriteString(cutNote)
	}
}
