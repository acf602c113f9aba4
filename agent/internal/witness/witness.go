// Package witness lets hosts of a fleet tell whether it is they who are out of reach or
// the coordinator. A witness answers over TLS with the identity of its host, and only to
// hosts of its fleet: that it is there, or whether it reaches the coordinator itself, over
// a connection that it opens for that.
//
// A question is a line, the name of an Ask; so is the answer: "yes", or "no" or "busy"
// with a space and why. Then both hang up.
package witness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Ask is what a witness can be asked.
type Ask string

// The questions.
const (
	// Here is answered with yes by whoever can be asked.
	Here Ask = "here"
	// Coordinator asks whether the witness reaches the coordinator.
	Coordinator Ask = "coordinator"
)

const (
	// maxAsk and maxAnswer bound a line in bytes, its end included.
	maxAsk    = 64
	maxAnswer = 1024
	// handshakeWithin bounds how long a peer may take to say who it is and what it asks;
	// answerWithin how long an answer may take after that.
	handshakeWithin = 5 * time.Second
	answerWithin    = 10 * time.Second
	// reachWithin bounds one attempt to reach the coordinator.
	reachWithin = 2500 * time.Millisecond
)

var (
	// ErrNo is a witness's answer: it does not reach the coordinator, or refuses to say.
	ErrNo = errors.New("the witness says no")
	// ErrBusy is the answer of a witness that can't say no in good faith: its own host is
	// being changed, and may be what is broken.
	ErrBusy = errors.New("the witness can't tell")
	// errLine is about a line that is too long, or has no end.
	errLine = errors.New("want one short line")
)

// readLine reads a line of at most so many bytes, its end included.
func readLine(r io.Reader, most int64) (string, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, most), int(most)).ReadString('\n')
	switch {
	case errors.Is(err, io.EOF):
		return "", errLine
	case err != nil:
		return "", fmt.Errorf("reading a line: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// answered is what an answer means.
func answered(line string) error {
	word, why, _ := strings.Cut(line, " ")
	switch word {
	case "yes":
		if why == "" {
			return nil
		}
	case "no":
		return fmt.Errorf("%w: %s", ErrNo, plain(why))
	case "busy":
		return fmt.Errorf("%w: %s", ErrBusy, plain(why))
	}
	return errLine
}

// plain takes control characters out of what the other side says, and what is no text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
