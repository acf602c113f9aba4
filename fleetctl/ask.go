package fleetctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// maxAnswer bounds an answer on one line, in bytes.
const maxAnswer = 64 << 10

// endOfText is what Ctrl-D comes to where no terminal makes it the end of the input.
const endOfText = "\x04"

// tries is how often a person may mistype a hidden answer.
const tries = 3

var errUnequal = errors.New("the two answers differ")

// askHidden asks for something that nobody is to see, twice; ask is askLine, or askLines.
func askHidden(ctx context.Context, question string, ask func(ctx context.Context, question string, hidden bool) ([]byte, error), stderr io.Writer) ([]byte, error) {
	for range tries {
		first, err := ask(ctx, question+": ", true)
		if err != nil {
			return nil, err
		}
		second, err := ask(ctx, "Once more: ", true)
		if err != nil {
			clear(first)
			return nil, err
		}
		same := bytes.Equal(first, second)
		clear(second)
		if same {
			return first, nil
		}
		clear(first)
		_, _ = fmt.Fprintln(stderr, "The two differ.")
	}
	return nil, ui.WithHint(fmt.Errorf("%w, %d times; nothing was done", errUnequal, tries), "run it again")
}

// askLine asks for a line on the terminal, hidden or not.
func (o *options) askLine(ctx context.Context, question string, hidden bool) ([]byte, error) {
	_, _ = fmt.Fprint(o.Stderr, question)
	f, ok := o.Stdin.(*os.File)
	if !ok || !hidden || !term.IsTerminal(int(f.Fd())) {
		return readLine(o.Stdin)
	}
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("asking on the terminal: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		typed <- answer{text, err}
	}()
	select {
	case a := <-typed:
		_, _ = fmt.Fprintln(o.Stderr)
		if a.err != nil {
			return nil, fmt.Errorf("reading the answer: %w", a.err)
		}
		return a.text, nil
	case <-ctx.Done():
		// What reads ends with the program; the terminal must echo again after it.
		_, _ = fmt.Fprintln(o.Stderr)
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

// askLines asks for all lines until the end of the input, which is Ctrl-D on a terminal.
// What was typed counts with the newlines between, and without the last.
func (o *options) askLines(ctx context.Context, question string, hidden bool) ([]byte, error) {
	question += "\n(several lines; Ctrl-D on a line of its own ends them)\n"
	var text []byte
	for n := 0; ; n++ {
		line, err := o.askLine(ctx, question, hidden)
		question = ""
		switch {
		case errors.Is(err, io.EOF) && n > 0, err == nil && string(line) == endOfText:
			return text, nil
		case err != nil:
			clear(text)
			return nil, err
		case len(text)+len(line) > maxAnswer:
			clear(text)
			clear(line)
			return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
		}
		if n > 0 {
			text = append(text, '\n')
		}
		text = append(text, line...)
		clear(line)
	}
}

// readLine reads a line byte by byte, so that what follows is there for the next question.
func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		n, err := r.Read(one)
		switch {
		case n == 1 && one[0] == '\n':
			return bytes.TrimSuffix(line, []byte("\r")), nil
		case n == 1 && len(line) == maxAnswer:
			clear(line)
			return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
		case n == 1:
			line = append(line, one[0])
		}
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return line, nil
			}
			return nil, ui.WithHint(fmt.Errorf("the input ended before the question was answered (%w); nothing was done", io.EOF), "run it again")
		}
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
	}
}
