package pace

import (
	"fmt"
	"time"
)

// Meter holds to a Limit what is no io.Reader: a stream of messages, say. It is
// for one goroutine at a time.
type Meter struct {
	limit  Limit
	stop   func(error)
	got    int64         // bytes since the window began
	waited time.Duration // spent in Wait since the window began
}

// NewMeter makes a meter. It calls stop, with ErrStalled, from a goroutine of
// its own, when what is waited for is slower than the limit; stop MUST make
// that wait return.
func NewMeter(limit Limit, stop func(error)) *Meter {
	return &Meter{limit: limit, stop: stop}
}

// Wait calls wait, which returns how many bytes it brought.
func (m *Meter) Wait(wait func() int64) {
	got := m.got
	timer := time.AfterFunc(m.limit.Window-m.waited, func() { m.stop(stalled(got, m.limit)) })
	start := time.Now() //nolint:forbidigo // Only how long it takes counts, not what time it is.
	m.got += wait()
	timer.Stop()
	m.waited += time.Since(start) //nolint:forbidigo // As above.
	if m.got >= m.limit.Bytes {
		m.got, m.waited = 0, 0
	}
}

func stalled(got int64, limit Limit) error {
	return fmt.Errorf("%w: %d bytes in %v, at least %d are needed: check the network, then try again",
		ErrStalled, got, limit.Window, limit.Bytes)
}
