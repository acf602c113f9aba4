package generator

import (
	"fmt"
	"io"
	"math/bits"
)

// draw reads n random bytes.
func draw(random io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		clear(b)
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return b, nil
}

// below draws a number below n, each as likely as any other: one that does not
// fit evenly is drawn again. n is at most 65,536.
func below(random io.Reader, n int) (int, error) {
	mask := 1<<bits.Len(uint(n-1)) - 1 //nolint:gosec // n is positive.
	// More than half fit, so a source with which none of so many does is broken.
	for range 256 {
		b, err := draw(random, 2)
		if err != nil {
			return 0, err
		}
		if i := (int(b[0])<<8 | int(b[1])) & mask; i < n {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the source of random bytes always yields the same")
}
