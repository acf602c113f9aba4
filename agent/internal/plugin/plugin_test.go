package plugin

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func certificate(t testing.TB) string {
	t.Helper()
	c, err := newCredentials(time.Unix(1<<31, 0))
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawStdEncoding.EncodeToString(c.cert.Certificate[0])
}

func TestParseHello(t *testing.T) {
	cert := certificate(t)
	good := "1|1|unix|/run/p/s|grpc|" + cert
	for line, want := range map[string]error{
		good:                                  nil,
		good + "|true":                        nil, // what newer libraries append
		" " + good:                            nil,
		"":                                    errHello,
		"hello":                               errHello,
		strings.Repeat("|", 10):               errHello,
		"1|1|unix|/run/p/s|grpc":              errHello,
		"1|1|unix|/run/p/s|grpc|":             errHello,
		"1|1|unix|/run/p/s|grpc|AAAA":         errHello,
		"1|1|unix|/run/p/s|netrpc|" + cert:    errHello,
		"1|1|tcp|127.0.0.1:1|grpc|" + cert:    errHello,
		"1|1|unix|/run/p/../s|grpc|" + cert:   errHello,
		"1|1|unix|/run/s|grpc|" + cert:        errHello,
		"1|1|unix|/run/p/x/../s|grpc|" + cert: errHello,
		"1|1|unix|s|grpc|" + cert:             errHello,
		"x|1|unix|/run/p/s|grpc|" + cert:      errHello,
		"1|x|unix|/run/p/s|grpc|" + cert:      errHello,
		"2|1|unix|/run/p/s|grpc|" + cert:      errVersion,
		"1|2|unix|/run/p/s|grpc|" + cert:      errVersion,
		"1|-1|unix|/run/p/s|grpc|" + cert:     errVersion,
	} {
		if h, err := parseHello(line, "/run/p"); !errors.Is(err, want) || err == nil && h.socket != "/run/p/s" {
			t.Errorf("%q: got %+v, %v; want %v", line, h, err, want)
		}
	}
}

// FuzzHello takes any first line: what is let through has a socket in the
// directory and a certificate.
func FuzzHello(f *testing.F) {
	f.Add("1|1|unix|/run/p/s|grpc|" + certificate(f))
	f.Add("1|1|tcp|127.0.0.1:1234|grpc")
	f.Add("\x00|||||")
	f.Fuzz(func(t *testing.T, line string) {
		h, err := parseHello(line, "/run/p")
		if err == nil && (filepath.Dir(h.socket) != "/run/p" || h.cert == nil) {
			t.Errorf("let through: %+v", h)
		}
	})
}

func TestFirstLine(t *testing.T) {
	for name, c := range map[string]struct {
		writes []string
		want   string
	}{
		"at once":   {[]string{"a|b\nrest\n"}, "a|b"},
		"in pieces": {[]string{"a|", "b", "\n", "c\n"}, "a|b"},
		"endless":   {[]string{strings.Repeat("x", maxHelloBytes-1), "yz", "more\n"}, strings.Repeat("x", maxHelloBytes-1) + "y"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &firstLine{line: make(chan string, 1)}
			for _, w := range c.writes {
				if n, err := f.Write([]byte(w)); n != len(w) || err != nil {
					t.Errorf("wrote %d, %v", n, err)
				}
			}
			if got := <-f.line; got != c.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	l := &logLines{log: slog.New(slog.NewTextHandler(&out, nil))}
	_, _ = fmt.Fprint(l, "one\n\x1b[2Jtwo", strings.Repeat("x", 2*maxLogLineBytes), "\nthree")
	if got := out.String(); strings.Count(got, "\n") != 2 || strings.Contains(got, "\x1b") || strings.Contains(got, "three") || len(got) > 2*maxLogLineBytes {
		t.Errorf("got %q", got)
	}
	for range 3 * maxLogLines {
		_, _ = fmt.Fprintln(l, "again")
	}
	if n := strings.Count(out.String(), "\n"); n != maxLogLines+1 || !strings.Contains(out.String(), "dropped") {
		t.Errorf("%d lines", n)
	}
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugins")
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("#!/bin/sh\n")
	ref := fleet.BlobRef{Digest: fleet.DigestOf(content), Size: uint64(len(content))}
	from := filepath.Join(t.TempDir(), "blob")
	write := func(name string, b []byte, mode fs.FileMode) {
		t.Helper()
		_ = os.Remove(name)
		if err := os.WriteFile(name, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.open(ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	write(from, []byte("#!/bin/zsh"), 0o600)
	if err := s.install(ref, from); !errors.Is(err, errChanged) {
		t.Errorf("another content of the same size was stored: %v", err)
	}
	write(from, append(content, 0), 0o600)
	if err := s.install(ref, from); !errors.Is(err, errChanged) {
		t.Errorf("a longer one was stored: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
	write(from, content, 0o600)
	install := func() {
		t.Helper()
		if err := s.install(ref, from); err != nil {
			t.Fatal(err)
		}
		f, err := s.open(ref)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	path := s.path(ref.Digest)
	for name, damage := range map[string]func(){
		"content":     func() { write(path, []byte("#!/bin/zsh"), 0o500) },
		"longer":      func() { write(path, append(content, 0), 0o500) },
		"permissions": func() { write(path, content, 0o500); _ = os.Chmod(path, 0o777) }, //nolint:gosec // The damage.
		"link":        func() { _ = os.Remove(path); _ = os.Symlink(from, path) },
	} {
		install()
		damage()
		if _, err := s.open(ref); !errors.Is(err, errChanged) {
			t.Errorf("%s: got %v, want %v", name, err, errChanged)
		}
		// It is gone, so that it is fetched again.
		if _, err := s.open(ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: then %v", name, err)
		}
	}
	install()
	if err := s.prune(map[fleet.Digest]bool{ref.Digest: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("what is to be kept: %v", err)
	}
	if err := s.prune(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("what is not to be kept is still there")
	}
	// What a crash left goes.
	write(filepath.Join(dir, tempPrefix+"1"), content, 0o600)
	if _, err := openStore(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// TestOverdue: a plugin that is the first to end a call at its deadline is one that
// hangs, as one that does not.
func TestOverdue(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context //nolint:containedctx // A row.
		err  error
		want bool
	}{
		"this side ended it":       {over, errors.New("whatever"), true},
		"the other side ended it":  {t.Context(), fmt.Errorf("stream terminated: %w", context.Canceled), true},
		"the other side was first": {t.Context(), fmt.Errorf("deadline: %w", context.DeadlineExceeded), true},
		"an error of its own":      {t.Context(), errors.New("out of order"), false},
	} {
		if got := overdue(c.ctx, c.err); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestHints(t *testing.T) {
	for _, code := range []fleet.ReasonCode{
		fleet.ReasonPluginMissing, fleet.ReasonPluginChecksum, fleet.ReasonPluginNotExecutable, fleet.ReasonPluginHandshake,
		fleet.ReasonPluginVersion, fleet.ReasonPluginCrashed, fleet.ReasonPluginHung, fleet.ReasonPluginAnswer, fleet.ReasonPluginBackoff,
	} {
		e := &Error{Plugin: "p", Kind: fleet.PluginProbe, Code: code, Cause: errors.New("is\x1b odd")}
		if e.Hint() == "" || CodeOf(fmt.Errorf("asking: %w", e), "") != code || e.Error() != `probe plugin "p" is  odd` {
			t.Errorf("%s: %q, hint %q", code, e, e.Hint())
		}
	}
	if got := CodeOf(errors.New("x"), fleet.ReasonInternal); got != fleet.ReasonInternal {
		t.Errorf("got %s", got)
	}
}
