// Package sopstest runs the programs that documents must be good for: the real sops and age.
package sopstest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Program returns where make built the real sops.
func Program() (string, error) { return program() }

// program builds it.
var program = sync.OnceValues(func() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("make", "-s", "--no-print-directory", "-C", filepath.Join(filepath.Dir(file), "../../.."), "sops") //nolint:noctx // It is built once, whichever test asks.
	cmd.Stderr = os.Stderr
	// Not those of a make that runs the tests: its options are not for this one.
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MAKE") && !strings.HasPrefix(e, "MFLAGS=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err //nolint:wrapcheck // Only shown.
})

// Run runs the real sops with the private keys as the only ones it knows, in dir. stderr is
// returned with an error.
func Run(t testing.TB, dir, keys string, stdin []byte, args ...string) (stdout []byte, stderr string, err error) {
	t.Helper()
	path, err := Program()
	if err != nil {
		t.Fatalf("building sops by make sops: %v", err)
	}
	return run(t, dir, keys, stdin, path, args...)
}

// Age runs the age of the distribution.
func Age(t testing.TB, dir string, stdin []byte, args ...string) (stdout []byte, stderr string, err error) {
	t.Helper()
	path, err := exec.LookPath("age")
	if err != nil {
		t.Fatal("the tests need age: apt-get install age")
	}
	return run(t, dir, "", stdin, path, args...)
}

func run(t testing.TB, dir, keys string, stdin []byte, path string, args ...string) ([]byte, string, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home, "SOPS_DISABLE_VERSION_CHECK=1", "GOCOVERDIR=" + home}
	if file := os.Getenv("SOPS_AGE_SSH_PRIVATE_KEY_FILE"); file != "" { // By t.Setenv.
		cmd.Env = append(cmd.Env, "SOPS_AGE_SSH_PRIVATE_KEY_FILE="+file)
	}
	if keys != "" {
		cmd.Env = append(cmd.Env, "SOPS_AGE_KEY="+keys)
	}
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	return out, stderr.String(), err //nolint:wrapcheck // Tests show it with stderr.
}

// Key is a throw-away age key.
type Key struct {
	// Private and Public are its texts.
	Private, Public string
	Identity        sops.Identity
	Recipient       sops.Recipient
}

// NewKey makes a key.
func NewKey(t testing.TB) Key {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return KeyOf(t, id.String())
}

// KeyOf returns the key of a text of private keys, of which it takes the first.
func KeyOf(t testing.TB, private string) Key {
	t.Helper()
	ids, err := sops.ParseIdentities([]byte(private), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := sops.ParseRecipient(ids[0].Recipient, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Key{private, ids[0].Recipient, ids[0], r}
}
