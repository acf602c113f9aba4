package coordinator_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/coordinator"
)

func TestMainRuns(t *testing.T) {
	w := newWorld(t)
	w.stop()
	dir := t.TempDir()
	id, err := age.GenerateX25519Identity()
	check(t, err)
	other, err := age.GenerateX25519Identity()
	check(t, err)
	sealed, err := w.kit.Seal(id.Recipient())
	check(t, err)
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(data), 0o600))
		return path
	}
	kitFile, key, otherKey := write("kit.age", string(sealed)), write("key", id.String()+"\n"), write("other", other.String()+"\n")
	addressFile := filepath.Join(dir, "address")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- coordinator.MainContext(ctx, []string{
			"run", "--kit", kitFile, "--kit-key", key, "--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--address-file", addressFile,
		}, &out, &errs)
	}()
	waitFor(t, func() bool {
		b, err := os.ReadFile(addressFile)
		w.addr = strings.TrimSpace(string(b))
		return err == nil
	})
	w.join("galena")
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	if !strings.Contains(out.String(), "msg=listening address="+w.addr) {
		t.Errorf("log: %s", out.String())
	}
	if strings.Contains(out.String(), string(w.kit.CAKey)) {
		t.Error("the log holds a key")
	}
	// A stop that comes while it starts is no failure either.
	errs.Reset()
	if code := coordinator.MainContext(ctx, []string{
		"run", "--kit", kitFile, "--kit-key", key, "--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0",
	}, &bytes.Buffer{}, &errs); code != 0 {
		t.Errorf("stopped while it starts: exit code %d: %s", code, errs.String())
	}

	for name, tt := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no arguments":    {[]string{"run"}, 2, "required flag"},
		"unknown flag":    {[]string{"run", "--fast"}, 2, "unknown flag"},
		"log format":      {[]string{"run", "--kit", kitFile, "--kit-key", key, "--state-dir", dir, "--log-format", "xml"}, 2, "use text or json"},
		"missing kit":     {[]string{"run", "--kit", dir + "/none", "--kit-key", key, "--state-dir", dir}, 1, "reading the kit"},
		"missing key":     {[]string{"run", "--kit", kitFile, "--kit-key", dir + "/none", "--state-dir", dir}, 1, "reading the key"},
		"other key":       {[]string{"run", "--kit", kitFile, "--kit-key", otherKey, "--state-dir", dir}, 1, "give the key that it was made for"},
		"a kit is no key": {[]string{"run", "--kit", kitFile, "--kit-key", kitFile, "--state-dir", dir}, 1, "reading the key"},
		"a key is no kit": {[]string{"run", "--kit", key, "--kit-key", key, "--state-dir", dir}, 1, "malformed coordinator kit"},
	} {
		t.Run(name, func(t *testing.T) {
			var errs bytes.Buffer
			if code := coordinator.MainContext(t.Context(), tt.args, &bytes.Buffer{}, &errs); code != tt.code || !strings.Contains(errs.String(), tt.text) {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, errs.String())
			}
		})
	}
}
