package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Format is how results are written.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatJSON  Format = "json"
)

// ParseFormat checks the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case FormatTable, FormatJSON:
		return f, nil
	}
	return "", fmt.Errorf("output format %q: use table or json", s)
}

// Printer writes results: one JSON document, or tables for people.
type Printer struct {
	out    io.Writer
	format Format
	color  bool
}

// NewPrinter returns a Printer on out. Colours are used when color is set and
// the format is for people.
func NewPrinter(out io.Writer, format Format, color bool) *Printer {
	return &Printer{out: out, format: format, color: color && format == FormatTable}
}

// JSON says whether results are wanted as JSON.
func (p *Printer) JSON() bool { return p.format == FormatJSON }

// Value writes v as JSON, indented, with a newline.
func (p *Printer) Value(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Line writes v as JSON on one line: for streams of values.
func (p *Printer) Line(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Printf writes text for people.
func (p *Printer) Printf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, format, args...)
}

// Table writes rows below header, in columns, without lines and without
// trailing blanks.
func (p *Printer) Table(header []string, rows [][]string) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(cells(header))
	for _, r := range rows {
		t.AppendRow(cells(r))
	}
	p.Printf("%s\n", t.Render())
}

func cells(in []string) table.Row {
	row := make(table.Row, len(in))
	for i, s := range in {
		row[i] = s
	}
	return row
}

// Tone says what a piece of text means; each has a colour on a terminal.
type Tone int

// The tones.
const (
	ToneNone Tone = iota
	ToneGood
	ToneBusy
	ToneWarn
	ToneBad
	ToneDim
)

// Paint colours s by its meaning, where colours are used.
func (p *Printer) Paint(t Tone, s string) string {
	if !p.color || s == "" {
		return s
	}
	code := ""
	switch t {
	case ToneNone:
		return s
	case ToneGood:
		code = "32"
	case ToneBusy:
		code = "36"
	case ToneWarn:
		code = "33"
	case ToneBad:
		code = "31;1"
	case ToneDim:
		code = "2"
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// IsTerminal says whether w is a terminal that wants colours and progress:
// NO_COLOR and TERM=dumb are honoured.
func IsTerminal(w any, getenv func(string) string) bool {
	return getenv("NO_COLOR") == "" && getenv("TERM") != "dumb" && OnTerminal(w)
}

// OnTerminal says whether w is a terminal, whatever it wants.
func OnTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
