package ui

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHint(t *testing.T) {
	inner := errors.New("broken")
	err := fmt.Errorf("doing it: %w", WithHint(inner, "mend it"))
	if HintOf(err) != "mend it" || !errors.Is(err, inner) || err.Error() != "doing it: broken" {
		t.Errorf("%v, hint %q", err, HintOf(err))
	}
	if HintOf(WithHint(err, "or buy another")) != "or buy another" {
		t.Error("the outermost hint counts")
	}
	if WithHint(nil, "x") != nil || HintOf(inner) != "" || HintOf(nil) != "" {
		t.Error("hints out of nothing")
	}
	both := fmt.Errorf("both: %w", errors.Join(err, inner, WithHint(inner, "call somebody"), err))
	if got := Hints(both); !slices.Equal(got, []string{"mend it", "call somebody"}) || HintOf(both) != "mend it" {
		t.Errorf("the hints of joined errors are %q", got)
	}
	if got := HintOf(WithHint(err, "")); got != "mend it" {
		t.Errorf("an empty hint hides another: %q", got)
	}
}

func TestPrinter(t *testing.T) {
	var out bytes.Buffer
	p := NewPrinter(&out, FormatTable, false)
	p.Table([]string{"NAME", "STATE"}, [][]string{{"a", p.Paint(ToneBad, "failed")}, {"longer", ""}})
	if want := "NAME    STATE\na       failed\nlonger\n"; out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
	out.Reset()
	if err := p.Value(map[string]string{"a": "<&>"}); err != nil || out.String() != "{\n  \"a\": \"<&>\"\n}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := p.Line([]int{1, 2}); err != nil || out.String() != "[1,2]\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	colored := NewPrinter(&out, FormatTable, true)
	for _, tone := range []Tone{ToneGood, ToneBusy, ToneWarn, ToneBad, ToneDim} {
		if s := colored.Paint(tone, "x"); !strings.HasPrefix(s, "\x1b[") || !strings.HasSuffix(s, "x\x1b[0m") {
			t.Errorf("tone %d: %q", tone, s)
		}
	}
	if colored.Paint(ToneNone, "x") != "x" || NewPrinter(&out, FormatJSON, true).Paint(ToneBad, "x") != "x" {
		t.Error("colours where none belong")
	}
}

func TestTableIgnoresColoursForWidths(t *testing.T) {
	var out bytes.Buffer
	p := NewPrinter(&out, FormatTable, true)
	p.Table([]string{"A", "B"}, [][]string{{p.Paint(ToneGood, "xx"), "1"}, {"xxx", "2"}})
	if got := strings.Split(out.String(), "\n")[1]; !strings.HasSuffix(got, "\x1b[0m   1") {
		t.Errorf("%q", got)
	}
}

func TestParseFormat(t *testing.T) {
	for _, s := range []string{"table", "json"} {
		if f, err := ParseFormat(s); err != nil || string(f) != s {
			t.Errorf("%s: %v", s, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("xml is no format")
	}
}

func TestIsTerminal(t *testing.T) {
	none := func(string) string { return "" }
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if IsTerminal(&bytes.Buffer{}, none) || IsTerminal(f, none) {
		t.Error("neither is a terminal")
	}
}

func TestProgress(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	p := NewProgress(&out, true, func() time.Time { return now })
	p.Status("signing…")
	now = now.Add(time.Second)
	p.Bytes("uploading", 512, 2048)
	p.Bytes("uploading", 513, 2048) // Too soon to be drawn.
	p.Say("warning: look")
	p.Bytes("uploading", 2048, 2048)
	p.Done()
	p.Done()
	want := "\r\x1b[Ksigning…" +
		"\r\x1b[Kuploading  25 %  512 B of 2.0 KiB" +
		"\r\x1b[Kwarning: look\n" + "\r\x1b[Kuploading  25 %  512 B of 2.0 KiB" +
		"\r\x1b[Kuploading 100 %  2.0 KiB of 2.0 KiB" +
		"\r\x1b[K"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
	out.Reset()
	p = NewProgress(&out, false, func() time.Time { return now })
	p.Status("signing…")
	p.Bytes("uploading", 0, 0)
	p.Say("warning: look")
	p.Done()
	if out.String() != "warning: look\n" {
		t.Errorf("off a terminal: %q", out.String())
	}
}

func TestTexts(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 4 << 30: "4.0 GiB", 1 << 62: "4194304.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
	now := time.Unix(1e9, 0)
	for ago, want := range map[time.Duration]string{
		0: "now", time.Second: "now", 42 * time.Second: "42s ago", 90 * time.Second: "1m30s ago", 2 * time.Minute: "2m ago",
		75 * time.Minute: "1h15m ago", 25 * time.Hour: "1d1h ago", 96 * time.Hour: "4d ago", -time.Hour: "in the future",
	} {
		if got := Ago(now, now.Add(-ago)); got != want {
			t.Errorf("Ago(%s) = %s, want %s", ago, got, want)
		}
	}
	if Ago(now, time.Time{}) != "never" {
		t.Error("the zero time is never")
	}
}
